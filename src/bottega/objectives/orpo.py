"""Odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691, eq. 6 and 7): no reference model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Objective, logistic_loss, pair_metrics
from bottega.records import Preference, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Orpo(Objective):
    """−likelihood of the chosen answers, a mean over tokens, − weight · log σ(log odds chosen − log odds rejected).

    The odds are p / (1 − p) of p = exp(mean log-probability a token of the answer).

    weight  of the odds beside the likelihood: λ in the paper, `beta` in TRL
    prompt  count the prompt's tokens in the likelihood too, which the paper does not and TRL does
    """

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    lr: ClassVar[tuple[float, float]] = (8e-6, 1e-4)

    kind: Literal["orpo"] = "orpo"
    weight: float = Field(0.1, gt=0)
    prompt: bool = False

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        chosen, rejected = codec.encode_pair(record)
        learned = chosen.predict_every_token() if self.prompt else chosen
        answer = np.isin(learned.at, chosen.at)
        return [(learned.with_columns(learned=1, answer=answer), rejected.with_columns(learned=0, answer=1))]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        logp, answer = scores["logp"], batch.columns["answer"]
        mean = batch.sum_rows(answer * logp) / batch.sum_rows(answer)
        odds = mean - _log1mexp(mean)
        margin = odds[0::2] - odds[1::2]
        terms = {
            "nll": Term(-(batch.columns["learned"] * logp).sum(), "learned"),
            "odds": Term(logistic_loss(margin).sum(), "example", self.weight),
        }
        return Loss(terms, metrics=pair_metrics(margin))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 − exp(x)) of x < 0, exact at both ends (Mächler 2012)."""
    import torch

    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near = x > -0.6931
    # Neither branch may meet a number it cannot take, or its gradient would be none.
    close, far = torch.where(near, x, -0.5), torch.where(near, -1.0, x)
    return torch.where(near, torch.log(-torch.expm1(close)), torch.log1p(-torch.exp(far)))
