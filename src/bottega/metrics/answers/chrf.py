"""chrF (Popović 2015), of `sacrebleu`: n-grams of characters, kind to languages with many endings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from bottega.metrics.answers import Metric, is_prose
from bottega.metrics.scores import Floats
from bottega.tokenization.unicode_words import to_nfc

BETA = 2


class Chrf(Metric):
    name: ClassVar[str] = "chrf"
    needs: ClassVar[str | None] = "sacrebleu"

    def fits(self, answers: Sequence[str]) -> bool:
        return is_prose(answers)

    @cached_property
    def _chrf(self) -> Any:
        from sacrebleu.metrics.chrf import CHRF

        return CHRF()

    def sums(self, written: str, right: Sequence[str]) -> Sequence[float]:
        """By order: n-grams written, of the reference, and those that agree."""
        references = [[to_nfc(one)] for one in right]
        found: list[float] = self._chrf._extract_corpus_statistics([to_nfc(written)], references)[0]
        return found

    def of(self, sums: Floats) -> Floats:
        """F with β = 2 of the mean precision and recall over the orders that both have, on 0 to 100."""
        written, reference, agree = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
        orders = np.maximum(((written > 0) & (reference > 0)).sum(-1), 1)
        precision = (agree / np.maximum(written, 1)).sum(-1) / orders
        recall = (agree / np.maximum(reference, 1)).sum(-1) / orders
        below = BETA**2 * precision + recall
        return np.asarray(100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1))
