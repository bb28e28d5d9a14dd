"""chrF (Popović 2015), by `sacrebleu`: F-score of character n-grams, suited to languages with rich morphology."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from bottega.metrics.answers import Metric, is_prose
from bottega.metrics.scores import Floats
from bottega.tokenization.unicode_words import to_nfc

# Recall counts BETA times as much as precision; 2 is the standard chrF2.
BETA = 2


class Chrf(Metric):
    name: ClassVar[str] = "chrf"
    requires: ClassVar[str | None] = "sacrebleu"

    def applies_to(self, answers: Sequence[str]) -> bool:
        return is_prose(answers)

    @cached_property
    def _chrf(self) -> Any:
        from sacrebleu.metrics.chrf import CHRF

        return CHRF()

    def sums(self, answer: str, references: Sequence[str]) -> Sequence[float]:
        """[3·orders]: by order, the n-grams of the answer, of the reference, and the matching ones."""
        texts = [[to_nfc(reference)] for reference in references]
        # A private method, but the only one that gives sums: chrF of any set of rows is computed from theirs.
        sums: list[float] = self._chrf._extract_corpus_statistics([to_nfc(answer)], texts)[0]
        return sums

    def statistic(self, sums: Floats) -> Floats:
        """Fβ of the mean precision and recall over the orders that both texts have, from 0 to 100."""
        written, reference, agree = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
        orders = np.maximum(((written > 0) & (reference > 0)).sum(-1), 1)
        precision = (agree / np.maximum(written, 1)).sum(-1) / orders
        recall = (agree / np.maximum(reference, 1)).sum(-1) / orders
        # Without a common n-gram both are 0, and F is 0 rather than 0 / 0.
        below = BETA**2 * precision + recall
        return np.asarray(100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1))
