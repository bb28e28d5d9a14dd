"""Next-token prediction over whole texts: pre-training and continued pre-training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Objective
from bottega.records import Record, Text

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.data.codec import Codec


class Causal(Objective):
    """Mean negative log-likelihood a token. Documents never see each other, however they are packed.

    label_smoothing  share of the likelihood that is spread evenly over the vocabulary, in training only
    """

    reads: ClassVar[tuple[type, ...]] = (Text,)
    splits: ClassVar[bool] = True
    lr: ClassVar[tuple[float, float]] = (1e-3, 2e-4)

    kind: Literal["causal"] = "causal"
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    @property
    def smoothing(self) -> float:
        return self.label_smoothing

    @property
    def weighted(self) -> bool:
        return True

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Text)
        return [(row,) for row in codec.document(record)]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        return Loss({"nll": Term(-(batch.weight * scores["logp"]).sum(), "token")})
