"""Confusion between classes, and calibration: whether a model is right as often as its probabilities say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 10

# A larger confusion matrix cannot be read; of more classes only the most frequent confusions are shown.
MAX_MATRIX_CLASSES = 15

Ints = NDArray[np.int64]


class Confusion(NamedTuple):
    """How many rows of class `right` were predicted as `named`."""

    right: str
    named: str
    rows: int


class CalibrationBin(NamedTuple):
    """Rows of similar confidence: their mean confidence, and the fraction that is right."""

    chance: float
    accuracy: float
    rows: int


@dataclass(frozen=True)
class ClassPredictions:
    """Reference and predicted class of each row, [R] indices of `labels`; and [R] the probability of the prediction."""

    labels: list[str]
    references: Ints
    predicted: Ints
    confidence: NDArray[np.float64] | None = None

    def matrix(self) -> Ints:
        """[C, C] confusion matrix: rows are reference classes, columns predicted ones."""
        size = len(self.labels)
        return np.bincount(self.references * size + self.predicted, minlength=size * size).reshape(size, size)

    def confusions(self, most: int = 20) -> list[Confusion]:
        """The most frequent confusions of two classes."""
        matrix = self.matrix()
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:most]
        cells = ((*divmod(cell, len(self.labels)), int(matrix.flat[cell])) for cell in order.tolist())
        return [Confusion(self.labels[right], self.labels[named], count) for right, named, count in cells if count]

    def calibration(self) -> list[CalibrationBin]:
        """Rows in bins of equal width of confidence; empty ones are left out."""
        if self.confidence is None:
            return []
        # A confidence of exactly 1 belongs to the last bin.
        bins = np.minimum((self.confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        hit = self.predicted == self.references
        return [
            CalibrationBin(float(self.confidence[rows].mean()), float(hit[rows].mean()), int(rows.sum()))
            for rows in (bins == number for number in range(CALIBRATION_BINS))
            if rows.any()
        ]

    def calibration_error(self) -> float | None:
        """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
        bins = self.calibration()
        total = sum(each.rows for each in bins)
        return sum(abs(each.chance - each.accuracy) * each.rows for each in bins) / total if total else None

    def document(self) -> dict[str, Any]:
        """Plain data."""
        document: dict[str, Any] = {"confusions": [list(each) for each in self.confusions()]}
        if len(self.labels) <= MAX_MATRIX_CLASSES:
            document |= {"labels": self.labels, "matrix": self.matrix().tolist()}
        if self.confidence is not None:
            bins = [list(each) for each in self.calibration()]
            document |= {"calibration": bins, "calibration_error": self.calibration_error()}
        return document
