"""A plain transformers folder: the adapter merged into the weights, with tokenizer and all settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import torch

from bottega.exporting import Engine, ExportFormat, TrainedModel, compute_logits
from bottega.models import heads
from bottega.models.generation_config import make_saveable
from bottega.models.source import quietly

# Files of a result that stay true when its adapter is merged; its model card tells how to load the adapter.
SETTINGS = ("generation_config.json", "modules.json")


class Merged(ExportFormat):
    """safetensors in float32, which is what the merge is computed in: rounding it is another model."""

    title: ClassVar[str] = "transformers folder"

    def write(self, model: TrainedModel, folder: Path) -> None:
        network = model.merged(torch.float32)
        make_saveable(network)
        network.save_pretrained(str(folder))
        model.tokenizer.save_pretrained(str(folder))
        if model.resolved.result is not None:
            _copy_settings(model.resolved.result, folder)

    def open(self, model: TrainedModel, folder: Path) -> Engine:
        from transformers import AutoConfig

        with quietly(str(folder), "the export"):
            config = AutoConfig.from_pretrained(str(folder))
            auto = heads.load(model.head).auto_class(config)
            network = auto.from_pretrained(str(folder), dtype=torch.float32, use_safetensors=True).eval()
        return lambda row: compute_logits(network, row)


def _copy_settings(result: Path, folder: Path) -> None:
    """What a run wrote beside its weights for other tools: end tokens, and how a text becomes a vector."""
    for path in result.iterdir():
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        elif path.name in SETTINGS:
            shutil.copy(path, folder)
