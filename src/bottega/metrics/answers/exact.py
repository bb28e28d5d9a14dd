"""Exact match with a reference answer, apart from surrounding white space and the Unicode encoding of accents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from bottega.metrics.answers import Metric
from bottega.tokenization.unicode_words import to_nfc


class Exact(Metric):
    name: ClassVar[str] = "exact_match"
    binary: ClassVar[bool] = True

    def applies_to(self, answers: Sequence[str]) -> bool:
        return True

    def sums(self, answer: str, references: Sequence[str]) -> Sequence[float]:
        # NFC: models and data may write an accent as a mark of its own.
        return float(to_nfc(answer).strip() in {to_nfc(reference).strip() for reference in references}), 1.0
