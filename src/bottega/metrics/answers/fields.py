"""Answers that are JSON objects, field by field: how many of all fields are there and right, as F1."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from bottega.metrics.answers import Metric
from bottega.metrics.intervals import f1
from bottega.metrics.scores import Floats
from bottega.tokenization.unicode_words import to_nfc


class Fields(Metric):
    name: ClassVar[str] = "fields_f1"

    def fits(self, answers: Sequence[str]) -> bool:
        return all(isinstance(parse_json(one), (dict, list)) for one in answers)

    def sums(self, written: str, right: Sequence[str]) -> Sequence[float]:
        """What agrees, and what was written plus what is right: of several right answers, of the one most like it."""
        said = list(flatten(parse_json(written)))
        pairs = [
            (_count_common(said, wanted), float(len(said) + len(wanted)))
            for wanted in (list(flatten(parse_json(one))) for one in right)
        ]
        return max(pairs, key=lambda pair: pair[0] / max(pair[1], 1))

    def of(self, sums: Floats) -> Floats:
        return f1(sums)


def parse_json(text: str) -> Any:
    """What a text is as JSON; None where it is none."""
    try:
        return json.loads(to_nfc(text))
    except (ValueError, RecursionError):
        return None


def flatten(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every value with its place; items of a list have no order of their own."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flatten(inner, f"{place}.{name}")
    elif isinstance(value, list):
        # An item is one thing: half of it right, with the other half of another, is not right.
        yield from ((f"{place}[]", json.dumps(inner, sort_keys=True, ensure_ascii=False)) for inner in value)
    elif value is not None or place:
        yield place, json.dumps(value, ensure_ascii=False)


def _count_common(one: Sequence[tuple[str, str]], other: Sequence[tuple[str, str]]) -> float:
    return float((Counter(one) & Counter(other)).total())
