"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, eq. 7) and what grew out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Objective, Score, logistic_loss, pair_metrics
from bottega.records import Preference, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Dpo(Objective):
    """−log σ(β · margin), where the margin is how much more the policy raised the chosen answer than the rejected.

    Both answers of a pair are rows of one example, chosen first, and share their prompt.

    beta             how strongly the policy is held to the reference: larger stays closer
    form             `sigmoid`; `robust` (Chowdhury et al. 2024, arXiv 2403.00409), unbiased where a share of
                     the pairs is the wrong way round; `ipo` (Azar et al. 2023, arXiv 2310.12036, eq. 17), whose margin
                     is drawn to 1 / 2β and no further
    label_smoothing  that share: of `robust`, and of `sigmoid` (conservative DPO, Mitchell 2023)
    normalised       log-probabilities a token instead of an answer's, so that long answers weigh no more; TRL's `ipo`
                     and `sigmoid_norm` do so
    """

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    lr: ClassVar[tuple[float, float]] = (1e-6, 2e-5)

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0)
    form: Literal["sigmoid", "robust", "ipo"] = "sigmoid"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    normalised: bool = False

    @model_validator(mode="after")
    def _agrees(self) -> Dpo:
        if self.form == "ipo" and self.label_smoothing:
            raise ValueError("label_smoothing: ipo has none; take robust or sigmoid")
        if self.form == "robust" and not self.label_smoothing:
            raise ValueError("label_smoothing: robust needs the share of pairs that are the wrong way round, say 0.1")
        return self

    @property
    def needs(self) -> tuple[Score, ...]:
        return (Score("reference", by="reference"),)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        return [codec.encode_pair(record)]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        raised = scores["logp"] - batch.columns["reference"]
        answers = batch.mean_rows(raised) if self.normalised else batch.sum_rows(raised)
        margin = answers[0::2] - answers[1::2]
        return Loss({"dpo": Term(self._pairs(margin).sum(), "example")}, metrics=pair_metrics(self.beta * margin))

    def _pairs(self, margin: Tensor) -> Tensor:
        if self.form == "ipo":
            return (margin - 1 / (2 * self.beta)) ** 2
        if self.form == "sigmoid":
            return logistic_loss(self.beta * margin, self.label_smoothing)
        share = self.label_smoothing
        right, wrong = logistic_loss(self.beta * margin), logistic_loss(-self.beta * margin)
        return ((1 - share) * right - share * wrong) / (1 - 2 * share)
