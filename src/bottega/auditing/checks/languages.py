"""The natural languages of the rows, and rows in another language than most."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import MAX_EXAMPLES, Finding
from bottega.tokenization.unicode_words import count_words

# Characters of a row that are classified: more would not change the language, only take time.
MAX_CHARACTERS = 300

# Letters below which the classifier guesses.
MIN_LETTERS = 40

# Probability from which the classifier's language counts; below it, texts are often a mixture.
MIN_PROBABILITY = 0.8

# Fraction of the rows from which on a language is that of the data, and all others are reported.
MAIN_FRACTION = 0.5

# Lines of code, data or markup have no natural language, but the classifier would name one.
SQL = r"""
    (?:SELECT|INSERT\ INTO|UPDATE|DELETE\ FROM|CREATE|ALTER|DROP|WITH|FROM|WHERE|GROUP\ BY|ORDER\ BY|HAVING|UNION|LIMIT
    |VALUES|SET|AND|ON|(?:LEFT\ |INNER\ |OUTER\ )?JOIN)\s.*
    |select\s.+\sfrom\s.+|insert\s+into\s.+|update\s\w+\sset\s.+|delete\s+from\s.+|create\s+table\s.+"""
PROGRAMMING = r"""
    (?:def|class|function|public|private|static|const|let|var|package|namespace)\s+\w+.*[:;({=].*
    |import\s+[\w.]+(?:\s+as\s+\w+)?;?|from\s+[\w.]+\s+import\s.*|\#include.*|//.*|/\*.*|\$\s.*
    |(?:if|for|while|elif|else|try|except|switch)\b.*[:{]|.*[;{}]|[<{}\[\]].*
    |.*(?:==|!=|&&|\|\||\w\.\w+\().*|[\w.\[\]"']+\s*(?:[-+*/]?=|:=|=>|->)\s*\S.*|[\w.]+\(.*\)[;:]?"""
CODE_LINE = re.compile(rf"\s*(?:{SQL}|{PROGRAMMING})\s*", re.VERBOSE)

# Code blocks and inline code of Markdown, and URLs.
CODE_SPAN = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)


class Languages(Check):
    """Naive Bayes over byte n-grams, 97 languages (langid; Lui and Baldwin 2012). Short rows are left out."""

    needs: ClassVar[tuple[str, ...]] = ("py3langid",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._identifier = _load_identifier()
        self.language_ids: dict[str, int] = {}
        self.rows, self.languages = array("q"), array("h")
        self.short, self.uncertain = 0, 0

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            text = extract_prose(entry.content[:MAX_CHARACTERS])
            if count_evidence(text) < MIN_LETTERS:
                self.short += 1
                continue
            name, probability = self._identifier.classify(text)
            if probability < MIN_PROBABILITY:
                self.uncertain += 1
                continue
            self.rows.append(entry.row)
            self.languages.append(self.language_ids.setdefault(name, len(self.language_ids)))

    def findings(self) -> Iterator[Finding]:
        counts = dict(self.shape().get("languages", ()))
        if len(counts) < 2:
            return
        main = next(iter(counts))  # `shape` lists the most frequent first
        if counts[main] >= MAIN_FRACTION * len(self.rows):
            fractions = ", ".join(f"{name} {count / len(self.rows):.1%}" for name, count in list(counts.items())[:5])
            main_id, all_names = self.language_ids[main], list(self.language_ids)
            rows = np.array(self.rows)[np.array(self.languages) != main_id]
            names = [all_names[language] for language in self.languages if language != main_id][:MAX_EXAMPLES]
            what = f"rows in another language than most: {fractions}"
            fix = "are they intended? if not, remove them; if so, make sure that each is in the validation rows"
            yield self.context.finding("other language", "note", what, fix, rows, names=names)

    @property
    def unchecked(self) -> str:
        skipped = self.short + self.uncertain
        return f"the language of {skipped:,} rows that are too short, code, or mixed" if skipped else ""

    def shape(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        if not self.language_ids:
            return {}
        counts, names = np.bincount(np.array(self.languages), minlength=len(self.language_ids)), list(self.language_ids)
        order = np.argsort(-counts, kind="stable").tolist()
        return {"languages": [(names[language], int(counts[language])) for language in order]}


@cache
def _load_identifier() -> Any:
    """The language classifier. Loading takes half a second, so that the audits of a process share it."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def extract_prose(text: str) -> str:
    """The lines of a text that look like natural language rather than code, data or markup."""
    return "\n".join(line for line in CODE_SPAN.sub(" ", text).splitlines() if not CODE_LINE.fullmatch(line))


def count_evidence(text: str) -> int:
    """Number of letters; a character of a script without spaces (Chinese, Japanese, Thai) counts as three."""
    # `counted` takes each such character for a word, so the surplus over the pieces between spaces is their number.
    return sum(map(str.isalpha, text)) + 2 * (count_words(text) - len(text.split()))
