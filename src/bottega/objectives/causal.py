"""Next-token prediction over whole texts: pre-training and continued pre-training."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from bottega.batch import Row
from bottega.objectives import Likelihood
from bottega.records import Record, Text

if TYPE_CHECKING:
    from bottega.data.codec import Codec


class Causal(Likelihood):
    """Mean negative log-likelihood a token. Documents never see each other, however they are packed.

    label_smoothing  share of the likelihood that is spread evenly over the vocabulary, in training only
    """

    reads: ClassVar[tuple[type, ...]] = (Text,)
    splits: ClassVar[bool] = True
    lr: ClassVar[tuple[float, float]] = (1e-3, 2e-4)

    kind: Literal["causal"] = "causal"

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Text)
        return [(row,) for row in codec.document(record)]
