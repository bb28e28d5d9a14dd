"""Export: a trained model in a format that other programs run; one file a format, found by its file name.

To add one, write `exporting/<kind>.py` with one subclass of `ExportFormat`, which names the runtime that runs it.
`bottega.export` writes a folder, opens it with that runtime, and compares what it computes with what was trained; only
then it gets its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from bottega import plugins
from bottega.errors import ModelError
from bottega.exporting._lora import ExportedLora
from bottega.exporting._precision import PRECISIONS, Precision
from bottega.exporting._source import TrainedModel
from bottega.inference.runtimes import Runtime, open_runtime

__all__ = ["PRECISIONS", "ExportFormat", "ExportedLora", "Precision", "Runtime", "TrainedModel", "kinds", "load"]


class ExportFormat(ABC):
    """A format that a trained model can be written in.

    title       what people call it
    runtime     kind of the runtime that runs it, a module of `inference.runtimes`
    precisions  names of the precisions it can be written in, the default first
    packages    packages that writing needs beside bottega's own
    extra       the extra of bottega that brings them
    library     what model hubs call the library that loads it
    usage       how other programs run it, as Markdown for its model card
    adapter_usage  how they use an adapter of it, from the adapter's folder
    """

    title: ClassVar[str]
    runtime: ClassVar[str] = "transformers"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    library: ClassVar[str] = "transformers"
    usage: ClassVar[str] = ""
    adapter_usage: ClassVar[str] = ""

    @property
    def kind(self) -> str:
        """Its name, that of its file."""
        return type(self).__module__.rpartition(".")[2]

    def refusal(self, model: TrainedModel) -> str:
        """Why the format cannot hold a model, in words; empty if it can."""
        return ""

    @abstractmethod
    def write(self, model: TrainedModel, folder: Path, precision: str) -> None:
        """Write the model into an empty folder."""

    def write_with_adapters(
        self, model: TrainedModel, loras: Sequence[ExportedLora], folder: Path, precision: str
    ) -> None:
        """Write a base model into an empty folder, and each adapter of it into `lora.folder` in there."""
        raise ModelError(
            f"{self.title} holds no adapters beside the weights",
            where=model.name,
            fix="export each run by itself, or choose gguf, genai or onnx",
        )

    def open(self, model: TrainedModel, folder: Path, adapter: Path | None = None) -> Runtime:
        """What was written, loaded by the program that will run it. `model` is asked for its kind, not for weights."""
        return open_runtime(self.runtime, folder, model.head, adapter)

    def bounds(self, model: TrainedModel, precision: str) -> Precision:
        """How far the export may be from what was trained."""
        return PRECISIONS[precision]

    def missing_packages(self) -> list[str]:
        """Those of `packages` that are not installed."""
        return [name for name in self.packages if find_spec(name) is None]


def kinds() -> list[str]:
    """Every export format in the folder, by name."""
    return plugins.module_names(__path__)


def load(kind: str) -> ExportFormat:
    """The format of `exporting/<kind>.py`."""
    return plugins.load_class(__name__, kind, ExportFormat)()
