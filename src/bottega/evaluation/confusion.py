"""Which classes are taken for which, and whether a model is right as often as it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 10
MAX_MATRIX_CLASSES = 15
"""Most classes of which all pairs are counted; of more, those that are most often mixed up."""

Ints = NDArray[np.int64]


class Confusion(NamedTuple):
    """How often what is `right` was called `named`."""

    right: str
    named: str
    rows: int


class CalibrationBin(NamedTuple):
    """Rows of like certainty: what chance the model gave to its answers, and how many were right."""

    chance: float
    accuracy: float
    rows: int


@dataclass(frozen=True)
class ClassPredictions:
    """What was right and what was said of each row, [R] numbers of `labels`; and [R] the chance given to that."""

    labels: list[str]
    right: Ints
    named: Ints
    chance: NDArray[np.float64] | None = None

    def matrix(self) -> Ints:
        """[C, C] how often each class, by row, was called each, by column."""
        size = len(self.labels)
        return np.bincount(self.right * size + self.named, minlength=size * size).reshape(size, size)

    def confusions(self, most: int = 20) -> list[Confusion]:
        """The pairs that are most often mixed up."""
        matrix = self.matrix()
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:most]
        pairs = ((*divmod(place, len(self.labels)), int(matrix.flat[place])) for place in order.tolist())
        return [Confusion(self.labels[one], self.labels[other], count) for one, other, count in pairs if count]

    def calibration(self) -> list[CalibrationBin]:
        """Rows by the chance that was given to what was said, in ten equal ranges; empty ones are left out."""
        if self.chance is None:
            return []
        place = np.minimum((self.chance * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        hit = self.named == self.right
        groups = (place == number for number in range(CALIBRATION_BINS))
        return [
            CalibrationBin(float(self.chance[one].mean()), float(hit[one].mean()), int(one.sum()))
            for one in groups
            if one.any()
        ]

    def calibration_error(self) -> float | None:
        """How far chances are from what comes true, over all rows (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
        bins = self.calibration()
        total = sum(one.rows for one in bins)
        return sum(abs(one.chance - one.accuracy) * one.rows for one in bins) / total if total else None

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = {"confusions": [list(one) for one in self.confusions()]}
        if len(self.labels) <= MAX_MATRIX_CLASSES:
            found |= {"labels": self.labels, "matrix": self.matrix().tolist()}
        if self.chance is not None:
            bins = [list(one) for one in self.calibration()]
            found |= {"calibration": bins, "calibration_error": self.calibration_error()}
        return found
