"""A plain transformers folder: the adapter merged into the weights, with tokenizer and all settings."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from bottega.exporting import PRECISIONS, ExportFormat, TrainedModel
from bottega.models.generation_config import make_saveable


class Merged(ExportFormat):
    """safetensors. The merge is computed in float32, and rounded once if another precision is asked for."""

    title: ClassVar[str] = "transformers folder"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")

    def write(self, model: TrainedModel, folder: Path, precision: str) -> None:
        network = model.merged(PRECISIONS[precision].dtype)
        make_saveable(network)
        network.save_pretrained(str(folder))
        # After the weights, which bring a generation config without all end tokens.
        model.write_settings(network, folder)
