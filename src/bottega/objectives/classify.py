"""Classification of a text into one, or several, of the labels found in the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from bottega.batch import Batch, Loss, Ratio, Row, Term
from bottega.errors import DataError
from bottega.objectives import HeadKind, Objective, Output, smoothed_nll
from bottega.records import Labelled, Multilabelled, Record, label_name

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


def _parse_weights(weights: Any) -> Any:
    """Weights by the names of labels, which a recipe may write as numbers."""
    if weights is None or weights == "balanced":
        return weights
    if not isinstance(weights, Mapping):
        raise ValueError("write balanced, or a number for each label: {spam: 2.0}")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight >= 0:
            raise ValueError(f"the weight of {name} is a number from 0 up, not {weight!r}")
    return {label_name(name) or str(name): weight for name, weight in weights.items()}


class Classify(Objective):
    """Mean cross-entropy a text; with `multi_label` mean cross-entropy of a yes or no for each label.

    multi_label      a text has any number of labels, listed in its row; each is decided by itself
    weights          how much rows of a label count: a number by label, or `balanced`: every label as much as another,
                     however many rows it has (King and Zeng 2001). With `multi_label`: how much a yes counts
    label_smoothing  share of the likelihood that is spread evenly over all labels
    """

    reads: ClassVar[tuple[type, ...]] = (Labelled, Multilabelled)
    head: ClassVar[HeadKind] = "sequence"
    outputs: ClassVar[frozenset[Output]] = frozenset({"logits"})
    stratify: ClassVar[bool] = True
    lr: ClassVar[tuple[float, float]] = (1e-4, 5e-4)

    kind: Literal["classify"] = "classify"
    multi_label: bool = False
    weights: Annotated[Literal["balanced"] | dict[str, float] | None, BeforeValidator(_parse_weights)] = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        names = _label_names(record)
        assert isinstance(record, (Labelled, Multilabelled))
        field = "labels" if isinstance(record, Multilabelled) else "label"
        known = [codec.label_id(f"{record.where}, field {field}", name) for name in names]
        if not self.multi_label:
            if isinstance(record, Multilabelled):
                raise DataError(
                    "the row lists labels",
                    where=f"{record.where}, field labels",
                    fix="objective: {kind: classify, multi_label: true}, or give each row one label",
                )
            row = codec.encode_pooled(record.where, record.text, known[0])
            return [(replace(row, weight=np.array([self._weight(names[0], codec)], np.float32)),)]
        row = codec.encode_pooled(record.where, record.text, 0)
        present = np.zeros((1, len(codec.labels)), np.float32)
        present[0, known] = 1
        yes = np.array([[self._weight(name, codec) for name in codec.labels]], np.float32)
        columns = {"present": present, "counts": np.where(present > 0, yes, np.float32(1))}
        return [(replace(row, columns=columns),)]

    def _weight(self, name: str, codec: Codec) -> float:
        if self.weights is None or not codec.label_counts:
            return 1.0
        if self.weights == "balanced":
            return float(sum(codec.label_counts.values()) / (len(codec.label_counts) * codec.label_counts[name]))
        return self.weights.get(name, 1.0)

    def count_labels(self, records: Iterable[Record]) -> dict[str, int]:
        counts, where = Counter[str](), ""
        for record in records:
            counts.update(_label_names(record))
            where = where or record.where
        if len(counts) < 2 and not (self.multi_label and counts):
            raise DataError(
                f"every row has the label {next(iter(counts))!r}, so there is nothing to learn"
                if counts
                else "no row has a label, so there is nothing to learn",
                where=f"{where}, field label",
                fix="add rows with another label",
            )
        unknown = sorted(set(self.weights) - set(counts)) if isinstance(self.weights, dict) else []
        if unknown:
            raise DataError(
                f"objective.weights names {unknown[0]!r}, which no training row has",
                where="objective.weights",
                fix=f"known: {', '.join(sorted(counts)[:8])}",
            )
        if isinstance(self.weights, dict) and not any(self.weights.get(name, 1.0) for name in counts):
            fix = "give at least one label a weight above 0"
            raise DataError(
                "every label has weight 0, so there is nothing to learn", where="objective.weights", fix=fix
            )
        return {name: counts[name] for name in sorted(counts)}

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        logits = scores["logits"]
        if self.multi_label:
            return self._each(logits, batch)
        nll = smoothed_nll(logits, batch.label, self.label_smoothing)
        right = logits.argmax(-1) == batch.label
        return Loss({"nll": Term((batch.weight * nll).sum(), "token")}, metrics={"accuracy": Term(right.sum(), "row")})

    def _each(self, logits: Tensor, batch: Batch) -> Loss:
        from torch.nn.functional import binary_cross_entropy_with_logits

        present = batch.columns["present"]
        wanted = present * (1 - self.label_smoothing) + self.label_smoothing / 2
        nll = binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")
        found, there = logits > 0, present > 0
        return Loss(
            {"nll": Term((batch.columns["counts"] * nll).mean(1).sum(), "row")},
            metrics={
                "exact": Term((found == there).all(1).sum(), "row"),
                "micro_f1": Ratio(2 * (found & there).sum(), found.sum() + there.sum()),
            },
        )


def _label_names(record: Record) -> tuple[str, ...]:
    assert isinstance(record, (Labelled, Multilabelled))
    return record.labels if isinstance(record, Multilabelled) else (record.label,)
