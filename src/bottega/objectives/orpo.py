"""Odds-ratio preference optimization (Hong et al. 2024, arXiv 2403.07691, eq. 6 and 7): no reference model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Objective, chosen_minus_rejected, logistic_loss, pair_metrics
from bottega.records import Preference, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Orpo(Objective):
    """Odds-ratio preference optimization: NLL(chosen) − weight · log σ(log odds(chosen) − log odds(rejected)).

    The odds are p / (1 − p) with p = exp(mean log p over the answer's tokens). The NLL is a mean over the tokens of all
    chosen answers, the odds-ratio loss a mean over pairs.
    """

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    lr: ClassVar[tuple[float, float]] = (8e-6, 1e-4)

    kind: Literal["orpo"] = "orpo"
    weight: float = Field(0.1, gt=0, description="Weight of the odds-ratio loss: lambda in the paper, `beta` in TRL.")
    prompt: bool = Field(
        False, description="Include the prompt's tokens in the likelihood, as TRL does and the paper does not."
    )

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        chosen, rejected = codec.encode_pair(record)
        predicted = chosen.predict_every_token() if self.prompt else chosen
        # The odds are of the answer alone, also where the prompt is predicted with it.
        answer = np.isin(predicted.at, chosen.at)
        return [(predicted.with_columns(learned=1, answer=answer), rejected.with_columns(learned=0, answer=1))]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        logp, answer = scores["logp"], batch.columns["answer"]  # [N]
        mean = batch.sum_rows(answer * logp) / batch.sum_rows(answer)  # [R]
        margin = chosen_minus_rejected(mean - _log1mexp(mean))  # [E], the log odds ratio
        terms = {
            "nll": Term(-(batch.columns["learned"] * logp).sum(), "learned"),
            "odds": Term(logistic_loss(margin).sum(), "example", self.weight),
        }
        return Loss(terms, metrics=pair_metrics(margin))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 − exp(x)) for x < 0, exact near 0 and for large −x (Mächler 2012)."""
    import torch

    # At 0, where an answer is certain, the odds are infinite.
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near_zero = x > -0.6931  # −log 2, where the two forms are equally exact
    # torch.where also differentiates the branch it drops: a NaN there would become the gradient, so each branch gets
    # only numbers it can take.
    small, large = torch.where(near_zero, x, -0.5), torch.where(near_zero, -1.0, x)
    return torch.where(near_zero, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))
