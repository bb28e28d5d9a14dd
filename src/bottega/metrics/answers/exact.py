"""The right answer to the letter, white space around it aside, and however its accents are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from bottega.metrics.answers import Metric
from bottega.tokenization.unicode_words import to_nfc


class Exact(Metric):
    name: ClassVar[str] = "exact_match"
    binary: ClassVar[bool] = True

    def fits(self, answers: Sequence[str]) -> bool:
        return True

    def sums(self, written: str, right: Sequence[str]) -> Sequence[float]:
        return float(to_nfc(written).strip() in {to_nfc(one).strip() for one in right}), 1.0
