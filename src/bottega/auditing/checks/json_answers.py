"""Answers that should be JSON and are not, or lack what the others have."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding
from bottega.records import Chat, Prompted, Text

ASKED = 0.5
"""Share of answers that begin like JSON from which on all are to be JSON."""

USUAL = 0.95
"""Share of the answers with a field from which on it is missed in the others."""


class JsonAnswers(Check):
    """Where most answers are JSON: those that do not parse, and those without a field that nearly all have."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.answers, self.begun = 0, 0
        self.broken, self.sound, self.fields = array("q"), array("q"), array("l")
        self.shapes: dict[frozenset[str], int] = {}

    def see(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            if not isinstance(one.record, (Prompted, Chat, Text)) or not one.asked:
                continue
            self.answers += 1
            text = _unfenced(one.answer)
            self.begun += text.startswith(("{", "["))
            try:
                value = json.loads(text) if text.startswith(("{", "[")) else None
            except (ValueError, RecursionError):
                value = None
            if value is None:
                self.broken.append(one.number)
            else:
                shape = frozenset(value) if isinstance(value, dict) else frozenset[str]()
                self.sound.append(one.number)
                self.fields.append(self.shapes.setdefault(shape, len(self.shapes)))

    def findings(self) -> Iterator[Finding]:
        if not self.begun or self.begun < ASKED * self.answers:
            return
        if len(self.broken):
            what, fix = f"no JSON, where {self.begun / self.answers:.0%} of the answers are", "mend or remove them"
            yield self.context.finding("broken JSON", "error", what, fix, self.broken, mend="remove")
        which, shapes = np.array(self.fields), list(self.shapes)
        often = Counter[str]()
        for place, count in enumerate(np.bincount(which, minlength=len(shapes)).tolist()):
            often.update(dict.fromkeys(shapes[place], count))
        usual = {name for name, count in often.items() if count >= USUAL * len(which)}
        lacking = [place for place, shape in enumerate(shapes) if usual - shape]
        if lacking:
            missed = sorted(set().union(*(usual - shapes[place] for place in lacking)))
            what = f"JSON without a field that nearly all answers have: {', '.join(missed[:5])}"
            rows = np.array(self.sound)[np.isin(which, lacking)]
            yield self.context.finding("missing field", "warning", what, "add it, or null where there is nothing", rows)


def _unfenced(answer: str) -> str:
    """The answer without a fence of three backticks around it."""
    text = answer.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip()
    return text
