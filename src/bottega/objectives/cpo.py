"""Contrastive preference optimization (Xu et al. 2024, arXiv 2401.08417, eq. 3): DPO without a reference model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Objective, chosen_minus_rejected, logistic_loss, pair_metrics
from bottega.records import Preference, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Cpo(Objective):
    """Contrastive preference optimization: −log σ(β · (log p(chosen) − log p(rejected))) − weight · log p(chosen).

    log p(answer) is the sum over its tokens; the loss is a mean over pairs.
    """

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    lr: ClassVar[tuple[float, float]] = (1e-6, 2e-5)

    kind: Literal["cpo"] = "cpo"
    beta: float = Field(0.1, gt=0, description="Scale of the margin inside the sigmoid.")
    weight: float = Field(1.0, ge=0, description="Weight of the likelihood of the chosen answers.")
    likelihood: Literal["answer", "token"] = Field(
        "answer",
        description="Mean of that likelihood: over whole answers, as in the paper; or over the tokens of all chosen "
        "answers, as in TRL.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Fraction of pairs assumed to be the wrong way round; not in the paper."
    )

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        chosen, rejected = codec.encode_pair(record)
        return [(chosen.with_columns(learned=1), rejected.with_columns(learned=0))]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        logp = scores["logp"]  # [N]
        margin = self.beta * chosen_minus_rejected(batch.sum_rows(logp))  # [E]
        # The column `learned` counts the tokens of chosen answers.
        unit = "learned" if self.likelihood == "token" else "example"
        terms = {
            "cpo": Term(logistic_loss(margin, self.label_smoothing).sum(), "example"),
            "nll": Term(-(batch.columns["learned"] * logp).sum(), unit, self.weight),
        }
        return Loss(terms, metrics=pair_metrics(margin))
