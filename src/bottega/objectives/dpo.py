"""Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290, eq. 7) and its variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Objective, Score, chosen_minus_rejected, logistic_loss, pair_metrics
from bottega.records import Preference, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Dpo(Objective):
    """Direct preference optimization: −log σ(β · margin), margin = log-ratio(chosen) − log-ratio(rejected).

    The log-ratio of an answer is log p(answer) − log p_reference(answer), summed over its tokens; the loss is a mean
    over pairs. Both answers of a pair are rows of one example, chosen first, and share their prompt.

    sigmoid  the above; with ε = `label_smoothing` conservative DPO (Mitchell 2023)
    robust   ((1 − ε) · −log σ(β · margin) − ε · −log σ(−β · margin)) / (1 − 2ε), unbiased if a fraction ε of the pairs
             is the wrong way round (Chowdhury et al. 2024, arXiv 2403.00409)
    ipo      (margin − 1 / 2β)² (Azar et al. 2023, arXiv 2310.12036, eq. 17)
    """

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    lr: ClassVar[tuple[float, float]] = (1e-6, 2e-5)

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0, description="How strongly the policy is held to the reference model.")
    form: Literal["sigmoid", "robust", "ipo"] = Field(
        "sigmoid",
        description="Loss of a pair: `sigmoid` is DPO's; `robust` corrects for a known fraction of wrong labels; `ipo` "
        "pulls the margin to 1 / (2 beta) and no further.",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Fraction of pairs assumed to be the wrong way round, for `sigmoid` and `robust`.",
    )
    normalised: bool = Field(
        False, description="Average log-ratios over an answer's tokens, as TRL's `ipo` and `sigmoid_norm` do."
    )

    @model_validator(mode="after")
    def _check_smoothing(self) -> Dpo:
        if self.form == "ipo" and self.label_smoothing:
            raise ValueError("label_smoothing: ipo has none; use robust or sigmoid")
        if self.form == "robust" and not self.label_smoothing:
            raise ValueError("label_smoothing: robust needs the fraction of pairs that are the wrong way round, as 0.1")
        return self

    @property
    def needs(self) -> tuple[Score, ...]:
        return (Score("reference", by="reference"),)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        return [codec.encode_pair(record)]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        log_ratio = scores["logp"] - batch.columns["reference"]  # [N]
        per_answer = batch.mean_rows(log_ratio) if self.normalised else batch.sum_rows(log_ratio)  # [R]
        margin = chosen_minus_rejected(per_answer)  # [E]
        terms = {"dpo": Term(self._pair_losses(margin).sum(), "example")}
        # Scaled by β, the margin is that of the implicit rewards, as other trainers report it.
        return Loss(terms, metrics=pair_metrics(self.beta * margin))

    def _pair_losses(self, margin: Tensor) -> Tensor:
        """[E] margins → [E] losses."""
        if self.form == "ipo":
            return (margin - 1 / (2 * self.beta)) ** 2
        if self.form == "sigmoid":
            return logistic_loss(self.beta * margin, self.label_smoothing)
        epsilon = self.label_smoothing
        as_labeled, reversed_ = logistic_loss(self.beta * margin), logistic_loss(-self.beta * margin)
        # Below 0 for clear pairs: what makes it unbiased is that it subtracts the expected loss of wrong labels.
        return ((1 - epsilon) * as_labeled - epsilon * reversed_) / (1 - 2 * epsilon)
