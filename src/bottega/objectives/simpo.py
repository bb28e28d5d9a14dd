"""Simple preference optimization (Meng et al. 2024, arXiv 2405.14734, eq. 6): no reference model."""

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


class Simpo(Objective):
    """Simple preference optimization: −log σ(β · (mean log p(chosen) − mean log p(rejected)) − γ).

    The mean log p of an answer is over its tokens, so longer answers have no advantage; the loss is a mean over pairs.
    """

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    lr: ClassVar[tuple[float, float]] = (1e-6, 2e-5)

    kind: Literal["simpo"] = "simpo"
    beta: float = Field(2.0, gt=0, description="Scale of the difference inside the sigmoid.")
    gamma: float = Field(1.0, ge=0, description="Target margin; in the paper 0.3 to 0.5 times beta.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Fraction of pairs assumed to be the wrong way round; not in the paper."
    )

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        return [codec.encode_pair(record)]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        # Scaled before the difference is taken: another order would round otherwise.
        margin = chosen_minus_rejected(self.beta * batch.mean_rows(scores["logp"]))  # [E]
        loss = logistic_loss(margin - self.gamma, self.label_smoothing)  # [E]
        return Loss({"simpo": Term(loss.sum(), "example")}, metrics=pair_metrics(margin))
