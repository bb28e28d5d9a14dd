"""BLEU (Papineni et al. 2002), by `sacrebleu`: over all rows together, as it is defined, not a mean over sentences.

Text is tokenized by sacrebleu's `13a`; scripts without spaces character by character, as its `zh` does with Chinese.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from bottega.metrics.answers import Metric, is_prose
from bottega.metrics.scores import Floats
from bottega.tokenization.unicode_words import add_spaces, to_nfc

ORDER = 4


class Bleu(Metric):
    name: ClassVar[str] = "bleu"
    requires: ClassVar[str | None] = "sacrebleu"
    rowwise: ClassVar[bool] = False

    def applies_to(self, answers: Sequence[str]) -> bool:
        return is_prose(answers)

    @cached_property
    def _bleu(self) -> Any:
        from sacrebleu.metrics.bleu import BLEU

        return BLEU()

    def sums(self, answer: str, references: Sequence[str]) -> Sequence[float]:
        """[2 + 2·ORDER] words of the answer and of the reference; matching n-grams by order; all n-grams by order."""
        hypothesis, *texts = (add_spaces(to_nfc(text)) for text in (answer, *references))
        # A private method, but the only one that gives sums: BLEU of any set of rows is computed from theirs.
        sums: list[float] = self._bleu._extract_corpus_statistics([hypothesis], [[text] for text in texts])[0]
        return sums

    def statistic(self, sums: Floats) -> Floats:
        """Equations 2 and 3 of the paper, from 0 to 100, with sacrebleu's smoothing of orders without a match.

        For answers with fewer than four words, only the orders that exist count (sacrebleu's `effective_order`).
        """
        written, reference = sums[..., 0], np.maximum(sums[..., 1], 1)
        agree, all_ = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
        matched = agree.sum(-1) > 0
        # Each order without a match counts as half as much of a match as the one before it (method "exp").
        empty = np.cumsum(agree == 0, axis=-1)
        agree = np.where(agree == 0, 0.5**empty, agree)
        with np.errstate(divide="ignore"):
            logs = np.log(np.where(all_ > 0, agree / np.maximum(all_, 1), 1))
            brevity = np.minimum(1 - reference / np.maximum(written, 1e-9), 0)
            mean = logs.sum(-1) / np.maximum((all_ > 0).sum(-1), 1)
        return np.where(matched, 100 * np.exp(mean + brevity), 0.0)
