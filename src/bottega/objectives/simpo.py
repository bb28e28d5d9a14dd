"""Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734, eq. 6): no reference model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Objective, logistic_loss, pair_metrics
from bottega.records import Preference, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Simpo(Objective):
    """−log σ(β · (mean log-probability of the chosen answer − that of the rejected) − γ), means over tokens.

    beta             how steep the preference is
    gamma            how far apart the answers should be; the paper takes 0.3 to 0.5 times beta
    label_smoothing  share of pairs that may be the wrong way round; not in the paper
    """

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    lr: ClassVar[tuple[float, float]] = (1e-6, 2e-5)

    kind: Literal["simpo"] = "simpo"
    beta: float = Field(2.0, gt=0)
    gamma: float = Field(1.0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        return [codec.encode_pair(record)]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        mean = self.beta * batch.mean_rows(scores["logp"])
        margin = mean[0::2] - mean[1::2]
        pairs = logistic_loss(margin - self.gamma, self.label_smoothing)
        return Loss({"simpo": Term(pairs.sum(), "example")}, metrics=pair_metrics(margin))
