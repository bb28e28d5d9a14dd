"""Classification of a text into one, or several, of the labels of the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from bottega.batch import Batch, Loss, Ratio, Row, Term
from bottega.errors import DataError
from bottega.objectives import HeadKind, Objective, Output, Prediction, smoothed_nll
from bottega.records import Labelled, Multilabelled, Record, label_name

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


def _parse_weights(weights: Any) -> Any:
    """Class weights with every label as text: YAML reads `1` and `true` as other types."""
    if weights is None or weights == "balanced":
        return weights
    if not isinstance(weights, Mapping):
        raise ValueError("write balanced, or a number for each label: {spam: 2.0}")
    for name, weight in weights.items():
        # bool is a subclass of int; `not >= 0` also refuses NaN.
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight >= 0:
            raise ValueError(f"the weight of {name} must be a number of at least 0, not {weight!r}")
    return {label_name(name) or str(name): weight for name, weight in weights.items()}


class Classify(Objective):
    """Classification: mean cross-entropy over texts; with `multi_label`, mean binary cross-entropy over all labels.

    One label: Σ w[label] · −log softmax(logits)[label] / Σ w[label].
    Several: the mean over texts and labels of −w · y · log σ(logit) − (1 − y) · log(1 − σ(logit)), y 1 if the text has
    the label.
    """

    reads: ClassVar[tuple[type, ...]] = (Labelled, Multilabelled)
    head: ClassVar[HeadKind] = "sequence"
    outputs: ClassVar[frozenset[Output]] = frozenset({"logits"})
    stratify: ClassVar[bool] = True
    lr: ClassVar[tuple[float, float]] = (1e-4, 5e-4)

    kind: Literal["classify"] = "classify"
    multi_label: bool = Field(
        False, description="A text has any number of labels, listed in its row; each is decided by itself."
    )
    weights: Annotated[Literal["balanced"] | dict[str, float] | None, BeforeValidator(_parse_weights)] = Field(
        None,
        description="Weight of each label, or `balanced`: inversely to its number of rows (King and Zeng 2001). With "
        "`multi_label`: weight of the texts that have the label.",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Probability spread evenly over all labels.")

    @property
    def prediction(self) -> Prediction:
        return "classes" if self.multi_label else "class"

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        names = _label_names(record)
        assert isinstance(record, (Labelled, Multilabelled))
        field = "labels" if isinstance(record, Multilabelled) else "label"
        ids = [codec.label_id(f"{record.where}, field {field}", name) for name in names]
        if self.multi_label:
            row = codec.encode_pooled(record.where, record.text, 0)
            return [(replace(row, columns=self._multi_label_columns(ids, codec)),)]
        if isinstance(record, Multilabelled):
            raise DataError(
                "the row has a list of labels",
                where=f"{record.where}, field labels",
                fix="objective: {kind: classify, multi_label: true}, or give each row one label",
            )
        row = codec.encode_pooled(record.where, record.text, ids[0])
        return [(replace(row, weight=np.array([self._label_weight(names[0], codec)], np.float32)),)]

    def _multi_label_columns(self, ids: list[int], codec: Codec) -> dict[str, np.ndarray]:
        """`present` [1, C], 1 for the labels of a text, and `counts` [1, C], the weight of each decision."""
        present = np.zeros((1, len(codec.labels)), np.float32)
        present[0, ids] = 1
        positive_weight = np.array([[self._label_weight(name, codec) for name in codec.labels]], np.float32)
        return {"present": present, "counts": np.where(present > 0, positive_weight, np.float32(1))}

    def _label_weight(self, name: str, codec: Codec) -> float:
        # Without counts the codec belongs to a trained model in use, whose loss nobody minimizes.
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
        # One label is enough with multi_label: a text may also have none.
        if len(counts) < 2 and not (self.multi_label and counts):
            raise DataError(
                f"every row has the label {next(iter(counts))!r}, so there is nothing to learn"
                if counts
                else "no row has a label, so there is nothing to learn",
                where=f"{where}, field label",
                fix="add rows with another label",
            )
        self._check_weights(counts)
        # Sorted, so that ids depend on the labels alone and not on the order of rows.
        return {name: counts[name] for name in sorted(counts)}

    def _check_weights(self, counts: Mapping[str, int]) -> None:
        if not isinstance(self.weights, dict):
            return
        unknown = sorted(set(self.weights) - set(counts))
        if unknown:
            raise DataError(
                f"objective.weights names {unknown[0]!r}, which no training row has",
                where="objective.weights",
                fix=f"known: {', '.join(sorted(counts)[:8])}",
            )
        if not any(self.weights.get(name, 1.0) for name in counts):
            raise DataError(
                "every label has weight 0, so there is nothing to learn",
                where="objective.weights",
                fix="give at least one label a weight above 0",
            )

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        logits = scores["logits"]  # [R, C]: a row has one prediction
        if self.multi_label:
            return self._multi_label_loss(logits, batch)
        nll = smoothed_nll(logits, batch.label, self.label_smoothing)  # [R]
        correct = logits.argmax(-1) == batch.label  # [R]
        return Loss(
            {"nll": Term((batch.weight * nll).sum(), "token")}, metrics={"accuracy": Term(correct.sum(), "row")}
        )

    def _multi_label_loss(self, logits: Tensor, batch: Batch) -> Loss:
        from torch.nn.functional import binary_cross_entropy_with_logits

        present = batch.columns["present"]  # [R, C]
        # Smoothing moves both targets towards 1/2, the even distribution over yes and no.
        target = present * (1 - self.label_smoothing) + self.label_smoothing / 2
        nll = binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")  # [R, C]
        predicted, actual = logits > 0, present > 0
        return Loss(
            {"nll": Term((batch.columns["counts"] * nll).mean(1).sum(), "row")},
            metrics={
                "exact": Term((predicted == actual).all(1).sum(), "row"),
                # A ratio of sums: the F1 of a batch cannot be averaged over batches.
                "micro_f1": Ratio(2 * (predicted & actual).sum(), predicted.sum() + actual.sum()),
            },
        )


def _label_names(record: Record) -> tuple[str, ...]:
    assert isinstance(record, (Labelled, Multilabelled))
    return record.labels if isinstance(record, Multilabelled) else (record.label,)
