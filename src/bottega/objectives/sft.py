"""Supervised fine-tuning: predict the answer, given the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Objective
from bottega.records import Chat, Prompted, Record, Text

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.data.codec import Codec


class Sft(Objective):
    """Mean negative log-likelihood of the answers' tokens.

    weighting  `token`: every answer token of the update counts the same; `example`: every example does, however long
    """

    reads: ClassVar[tuple[type, ...]] = (Chat, Prompted, Text)

    kind: Literal["sft"] = "sft"
    weighting: Literal["token", "example"] = "token"

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, (Chat, Prompted, Text))
        return [(codec.answer(record),)]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        nll = -batch.weight * scores["logp"]
        if self.weighting == "token":
            return Loss({"nll": Term(nll.sum(), "token")})
        return Loss({"nll": Term((batch.sum_rows(nll) / batch.sum_rows(batch.weight)).sum(), "example")})
