"""Regression: predict a number for a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import HeadKind, Objective, Output, Prediction
from bottega.objectives._labels import parse_number
from bottega.records import Labelled, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Regress(Objective):
    """Regression: the mean error of the predicted numbers. Labels are not scaled, and best between about -3 and 3."""

    reads: ClassVar[tuple[type, ...]] = (Labelled,)
    head: ClassVar[HeadKind] = "sequence"
    outputs: ClassVar[frozenset[Output]] = frozenset({"logits"})
    lr: ClassVar[tuple[float, float]] = (1e-4, 5e-4)

    kind: Literal["regress"] = "regress"
    error: Literal["squared", "absolute", "huber"] = Field(
        "squared",
        description="Error d = prediction - label: d²; its absolute value; or d² / 2 up to 1 and linear beyond (Huber "
        "1964).",
    )

    @property
    def prediction(self) -> Prediction:
        return "number"

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Labelled)
        return [(codec.encode_pooled(record.where, record.text, parse_number(record)),)]

    def count_labels(self, records: Iterable[Record]) -> dict[str, int]:
        # One output, named as transformers would show it.
        return {"value": 0}

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        deviation = (scores["logits"][:, 0] - batch.label).abs()  # [R]
        if self.error == "huber":
            # d² / 2 below 1 and d − 1/2 above, without a branch whose gradient could be NaN.
            error = deviation.clamp(max=1.0) * (deviation - 0.5 * deviation.clamp(max=1.0))
        else:
            error = deviation if self.error == "absolute" else deviation**2
        mean_error = Term(deviation.detach().sum(), "row")
        return Loss({self.error: Term(error.sum(), "row")}, metrics={"mean_error": mean_error})
