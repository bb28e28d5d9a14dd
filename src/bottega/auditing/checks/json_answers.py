"""Answers that should be JSON but are not, or that lack a field the others have."""

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

# Fraction of the answers that must start like JSON for all of them to be expected to be JSON.
JSON_FRACTION = 0.5

# Fraction of the answers that must have a field for it to be reported as missing in the others.
USUAL_FRACTION = 0.95


class JsonAnswers(Check):
    """If most answers are JSON: those that cannot be parsed, and those without a field that nearly all have."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.answers, self.json_like = 0, 0
        self.broken = array("q")
        # Per parsed answer its row, and the index of its set of field names: few sets stand for many rows.
        self.valid, self.field_set_ids = array("q"), array("l")
        self.field_sets: dict[frozenset[str], int] = {}

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if not isinstance(entry.record, (Prompted, Chat, Text)) or not entry.prompt:
                continue
            self.answers += 1
            text = _strip_fence(entry.answer)
            json_like = text.startswith(("{", "["))  # a bare number or string is JSON too, but nobody means it
            self.json_like += json_like
            try:
                value = json.loads(text) if json_like else None
            except (ValueError, RecursionError):
                value = None
            if value is None:
                self.broken.append(entry.row)
            else:
                fields = frozenset(value) if isinstance(value, dict) else frozenset[str]()
                self.valid.append(entry.row)
                self.field_set_ids.append(self.field_sets.setdefault(fields, len(self.field_sets)))

    def findings(self) -> Iterator[Finding]:
        if not self.json_like or self.json_like < JSON_FRACTION * self.answers:
            return
        if len(self.broken):
            what = f"not valid JSON, as {self.json_like / self.answers:.0%} of the answers are"
            yield self.context.finding(
                "broken JSON", "error", what, "correct or remove them", self.broken, mend="remove"
            )
        yield from self._missing_fields()

    def _missing_fields(self) -> Iterator[Finding]:
        ids, field_sets = np.array(self.field_set_ids), list(self.field_sets)
        field_counts = Counter[str]()
        for index, count in enumerate(np.bincount(ids, minlength=len(field_sets)).tolist()):
            field_counts.update(dict.fromkeys(field_sets[index], count))
        usual = {name for name, count in field_counts.items() if count >= USUAL_FRACTION * len(ids)}
        incomplete = [index for index, fields in enumerate(field_sets) if usual - fields]
        if incomplete:
            missing = sorted(set().union(*(usual - field_sets[index] for index in incomplete)))
            what = f"JSON without a field that nearly all answers have: {', '.join(missing[:5])}"
            rows = np.array(self.valid)[np.isin(ids, incomplete)]
            yield self.context.finding("missing field", "warning", what, "add it, or null if it has no value", rows)


def _strip_fence(answer: str) -> str:
    """The answer without a Markdown code fence around it."""
    text = answer.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip()
    return text
