"""Which languages the rows are in, and which rows are in another than most."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding
from bottega.tokenization.unicode_words import counted

READ = 300
"""Characters of a row that are looked at."""

FEWEST = 40
"""Letters below which a language is a guess."""

SURE = 0.8
"""Probability from which on a row is said to be in a language."""

MOST = 0.5
"""Share of the rows from which on a language is that of the data."""


SQL = r"""
    (?:SELECT|INSERT\ INTO|UPDATE|DELETE\ FROM|CREATE|ALTER|DROP|WITH|FROM|WHERE|GROUP\ BY|ORDER\ BY|HAVING|UNION|LIMIT
    |VALUES|SET|AND|ON|(?:LEFT\ |INNER\ |OUTER\ )?JOIN)\s.*
    |select\s.+\sfrom\s.+|insert\s+into\s.+|update\s\w+\sset\s.+|delete\s+from\s.+|create\s+table\s.+"""
LANGUAGES = r"""
    (?:def|class|function|public|private|static|const|let|var|package|namespace)\s+\w+.*[:;({=].*
    |import\s+[\w.]+(?:\s+as\s+\w+)?;?|from\s+[\w.]+\s+import\s.*|\#include.*|//.*|/\*.*|\$\s.*
    |(?:if|for|while|elif|else|try|except|switch)\b.*[:{]|.*[;{}]|[<{}\[\]].*
    |.*(?:==|!=|&&|\|\||\w\.\w+\().*|[\w.\[\]"']+\s*(?:[-+*/]?=|:=|=>|->)\s*\S.*|[\w.]+\(.*\)[;:]?"""
CODE = re.compile(rf"\s*(?:{SQL}|{LANGUAGES})\s*", re.VERBOSE)
"""A line that looks like SQL, a programming language, data or markup, of which no language is spoken."""

FENCED = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)


def prose(text: str) -> str:
    """The lines of a text that are in a language people speak, as far as their form tells."""
    return "\n".join(line for line in FENCED.sub(" ", text).splitlines() if not CODE.fullmatch(line))


def evidence(text: str) -> int:
    """How many letters there are to tell a language by; a character of a script without spaces counts for three."""
    return sum(map(str.isalpha, text)) + 2 * (counted(text) - len(text.split()))


class Languages(Check):
    """Naive Bayes over byte sequences, 97 languages (langid; Lui and Baldwin 2012); short rows are left out."""

    needs: ClassVar[tuple[str, ...]] = ("py3langid",)

    def __init__(self, context: Context) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        super().__init__(context)
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self.names: dict[str, int] = {}
        self.rows, self.languages = array("q"), array("h")
        self.short, self.unsure = 0, 0

    def see(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            text = prose(one.content[:READ])
            if evidence(text) < FEWEST:
                self.short += 1
                continue
            name, chance = self._identifier.classify(text)
            if chance < SURE:
                self.unsure += 1
                continue
            self.rows.append(one.number)
            self.languages.append(self.names.setdefault(name, len(self.names)))

    def findings(self) -> Iterator[Finding]:
        counts = dict(self.shape().get("languages", ()))
        if len(counts) < 2:
            return
        main = next(iter(counts))
        if counts[main] >= MOST * len(self.rows):
            shares = ", ".join(f"{name} {count / len(self.rows):.1%}" for name, count in list(counts.items())[:5])
            rows = np.array(self.rows)[np.array(self.languages) != self.names[main]]
            names = [list(self.names)[one] for one in self.languages if one != self.names[main]][:10]
            what = f"rows in another language than most: {shares}"
            fix = "are they meant? if not, remove them; if so, hold out enough of each"
            yield self.context.finding("other language", "note", what, fix, rows, names=names)

    @property
    def unchecked(self) -> str:
        left = self.short + self.unsure
        return f"the language of {left:,} rows that are too short to tell, code, or mixed" if left else ""

    def shape(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        if not self.names:
            return {}
        counts = np.bincount(np.array(self.languages), minlength=len(self.names))
        names = list(self.names)
        return {
            "languages": [(names[place], int(counts[place])) for place in np.argsort(-counts, kind="stable").tolist()]
        }
