"""F1 over the fields of answers that are JSON: a field counts where both its path and its value match."""

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

    def applies_to(self, answers: Sequence[str]) -> bool:
        return all(isinstance(parse_json(answer), (dict, list)) for answer in answers)

    def sums(self, answer: str, references: Sequence[str]) -> Sequence[float]:
        """[2]: matching fields, and fields of the answer plus those of the closest reference."""
        fields = list(flatten(parse_json(answer)))
        pairs = [
            (_count_common(fields, expected), float(len(fields) + len(expected)))
            for expected in (list(flatten(parse_json(reference))) for reference in references)
        ]
        return max(pairs, key=lambda pair: pair[0] / max(pair[1], 1))

    def statistic(self, sums: Floats) -> Floats:
        return f1(sums)


def parse_json(text: str) -> Any:
    """Parse a text as JSON; None where it is not valid."""
    try:
        return json.loads(to_nfc(text))
    except (ValueError, RecursionError):  # generated text may be nested arbitrarily deep
        return None


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value) of every field; the order of list items is ignored."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flatten(inner, f"{path}.{name}")
    elif isinstance(value, list):
        # An item counts as a whole: half of one item and half of another are not a match.
        yield from ((f"{path}[]", json.dumps(inner, sort_keys=True, ensure_ascii=False)) for inner in value)
    elif value is not None or path:
        yield path, json.dumps(value, ensure_ascii=False)


def _count_common(left: Sequence[tuple[str, str]], right: Sequence[tuple[str, str]]) -> float:
    # As multisets: a field that is repeated counts as often as both have it.
    return float((Counter(left) & Counter(right)).total())
