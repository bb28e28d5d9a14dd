"""BLEU (Papineni et al. 2002), of `sacrebleu`: of the whole exam, as it is meant, not a mean of sentences.

Words are sacrebleu's own (`13a`); scripts without spaces are taken character by character, as its `zh` takes Chinese.
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
    needs: ClassVar[str | None] = "sacrebleu"
    rowwise: ClassVar[bool] = False

    def fits(self, answers: Sequence[str]) -> bool:
        return is_prose(answers)

    @cached_property
    def _bleu(self) -> Any:
        from sacrebleu.metrics.bleu import BLEU

        return BLEU()

    def sums(self, written: str, right: Sequence[str]) -> Sequence[float]:
        """Words written, words of the reference, and by order the n-grams that agree, then all of them."""
        said, *references = (add_spaces(to_nfc(one)) for one in (written, *right))
        found: list[float] = self._bleu._extract_corpus_statistics([said], [[one] for one in references])[0]
        return found

    def of(self, sums: Floats) -> Floats:
        """Equations 2 and 3 of the paper, on 0 to 100, with sacrebleu's smoothing of orders without a match.

        Of answers with fewer than four words the orders there are count (sacrebleu's `effective_order`).
        """
        written, reference = sums[..., 0], np.maximum(sums[..., 1], 1)
        agree, all_ = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
        matched = agree.sum(-1) > 0
        # The n-th order of those without a match counts as half as much of a match as the one before (method "exp").
        empty = np.cumsum(agree == 0, axis=-1)
        agree = np.where(agree == 0, 0.5**empty, agree)
        with np.errstate(divide="ignore"):
            logs = np.log(np.where(all_ > 0, agree / np.maximum(all_, 1), 1))
            brevity = np.minimum(1 - reference / np.maximum(written, 1e-9), 0)
            mean = logs.sum(-1) / np.maximum((all_ > 0).sum(-1), 1)
        return np.where(matched, 100 * np.exp(mean + brevity), 0.0)
