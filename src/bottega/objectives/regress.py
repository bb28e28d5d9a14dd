"""Regression: a number for a text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from bottega.batch import Batch, Loss, Row, Term
from bottega.errors import DataError
from bottega.objectives import HeadKind, Objective, Output
from bottega.records import Labelled, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Regress(Objective):
    """Mean error a text. Numbers are learned as they stand, and best when most are between -3 and 3.

    error  squared; absolute; or huber (Huber 1964), which is half the square up to 1 and linear beyond
    """

    reads: ClassVar[tuple[type, ...]] = (Labelled,)
    head: ClassVar[HeadKind] = "sequence"
    outputs: ClassVar[frozenset[Output]] = frozenset({"logits"})
    lr: ClassVar[tuple[float, float]] = (1e-4, 5e-4)

    kind: Literal["regress"] = "regress"
    error: Literal["squared", "absolute", "huber"] = "squared"

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Labelled)
        return [(codec.encode_pooled(record.where, record.text, parse_number(record)),)]

    def count_labels(self, records: Iterable[Record]) -> dict[str, int]:
        return {"value": 0}

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        apart = (scores["logits"][:, 0] - batch.label).abs()
        if self.error == "huber":
            error = apart.clamp(max=1.0) * (apart - 0.5 * apart.clamp(max=1.0))
        else:
            error = apart if self.error == "absolute" else apart**2
        return Loss({self.error: Term(error.sum(), "row")}, metrics={"mean_error": Term(apart.detach().sum(), "row")})


def parse_number(record: Labelled) -> float:
    """The number a label says; a DataError where it says none."""
    try:
        value = float(record.label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"label {record.label!r} is no number",
            where=f"{record.where}, field label",
            fix="mend it, or train with objective: {kind: classify}",
        )
    return value
