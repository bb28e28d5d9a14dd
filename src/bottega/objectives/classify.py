"""Classification of a text into one of the labels found in the training rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from bottega.batch import Batch, Loss, Row, Term
from bottega.errors import DataError
from bottega.objectives import Objective, Output
from bottega.records import Labelled, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.data.codec import Codec


class Classify(Objective):
    """Mean cross-entropy a text."""

    reads: ClassVar[tuple[type, ...]] = (Labelled,)
    head: ClassVar[Literal["language", "class"]] = "class"
    outputs: ClassVar[frozenset[Output]] = frozenset({"logits"})
    lr: ClassVar[tuple[float, float]] = (1e-4, 5e-4)

    kind: Literal["classify"] = "classify"

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Labelled)
        return [(codec.pooled(record.where, record.text, codec.label(record.where, record.label)),)]

    def labels(self, records: Iterable[Record]) -> list[str]:
        places = {record.label: record.where for record in records if isinstance(record, Labelled)}
        found = sorted(places)
        if len(found) == 1:
            raise DataError(
                f"every row has the label {found[0]!r}, so there is nothing to learn",
                where=f"{places[found[0]]}, field label",
                fix="add rows with another label",
            )
        return found

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        logits = scores["logits"]
        logp = logits.log_softmax(-1).gather(1, batch.label[:, None]).squeeze(1)
        right = logits.argmax(-1) == batch.label
        return Loss(
            {"nll": Term(-(batch.weight * logp).sum(), "token")},
            metrics={"accuracy": Term(right.sum(), "row")},
        )
