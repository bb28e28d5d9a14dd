"""Export: a trained model in a format that other programs load; one file a format, found by its file name.

To add one, write `exporting/<kind>.py` with one subclass of `ExportFormat`. `bottega.export` writes a folder, opens it
with the engine that will run it, and compares what that computes with what was trained; only then it gets its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bottega import plugins
from bottega.batch import Row
from bottega.exporting._source import TrainedModel, compute_logits

__all__ = ["Engine", "ExportFormat", "TrainedModel", "compute_logits", "kinds", "load"]

# Computes what a model gives for each token of a row: [T, C] logits of its head, or hidden states if it has none.
Engine = Callable[[Row], NDArray[np.floating]]


class ExportFormat(ABC):
    """A format that a trained model can be written in.

    title      what people call it
    tolerance  largest difference of a logit from the trained model's that an exact export may have
    """

    title: ClassVar[str]
    tolerance: ClassVar[float] = 1e-3

    @abstractmethod
    def write(self, model: TrainedModel, folder: Path) -> None:
        """Write the model into an empty folder; a ModelError if the format cannot hold it."""

    @abstractmethod
    def open(self, model: TrainedModel, folder: Path) -> Engine:
        """What was written, loaded by the engine that will run it. `model` is asked for its kind, not for weights."""


def kinds() -> list[str]:
    """Every export format in the folder, by name."""
    return plugins.module_names(__path__)


def load(kind: str) -> ExportFormat:
    """The format of `exporting/<kind>.py`."""
    return plugins.load_class(__name__, kind, ExportFormat)()
