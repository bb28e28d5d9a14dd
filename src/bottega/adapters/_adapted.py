"""A model with an adapter on it: what can be done with it, and the usual way for adapters that change it in place."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bottega.adapters._base import CONFIG, WEIGHTS, Adapter, InstallOptions
from bottega.errors import ModelError


class AdaptedModel(ABC):
    """A model with an adapter.

    model    the module to train, to save and to move between devices
    network  the transformers model in it, to call
    library  which library loads the saved folder again
    prefix   token ids that stand before every text; none while it is disabled
    """

    model: Any
    network: Any
    library: str = "bottega"
    prefix: tuple[int, ...] = ()

    @abstractmethod
    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the model computes what it did when the run began: without adapter, or with the one continued.

        A head trained beside the adapter is switched with it.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the adapter, with the new modules trained beside it, into a folder."""

    def merge(self) -> nn.Module:
        """The base model with the adapter added to its weights, in place; a ModelError where that is impossible."""
        raise ModelError(
            "an adapter of this kind cannot be merged into the weights of its base",
            where="adapter.kind",
            fix="use the base with the adapter beside it",
        )

    @property
    def left_out(self) -> list[str]:
        """Linear layers that got no adapter though all were wanted, by name."""
        return []

    @property
    def changes_head(self) -> bool:
        """Whether the adapter changes what the output embeddings compute: their own weight alone is then not enough."""
        return False


class AdaptedInPlace(AdaptedModel):
    """An adapter that changes the model in place: it adds modules to it, or trains some of its weights.

    A kind names the modules or weights that it trains, and overrides `disabled`. New modules of a head are trained with
    them; all else is frozen.

    names  parameters of the model that are trained
    """

    def __init__(self, model: nn.Module, adapter: Adapter, trained: Sequence[str], options: InstallOptions) -> None:
        self.model = self.network = model
        self.adapter = adapter
        prefixes = tuple(f"{name}." for name in (*trained, *options.new_modules))
        self.names = frozenset(name for name, _ in model.named_parameters() if f"{name}.".startswith(prefixes))
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in self.names)

    def save(self, folder: Path) -> None:
        trained = {name: weight for name, weight in self.model.named_parameters() if name in self.names}
        weights = {name: weight.detach().cpu().contiguous() for name, weight in trained.items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        config = {
            "kind": self.adapter.kind,
            "base_model_name_or_path": self.network.config.name_or_path,
            "settings": self.adapter.model_dump(mode="json", exclude={"start"}),
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")

    @torch.no_grad()
    def load(self, folder: Path, trainable: bool) -> None:
        """Take the weights that `save` wrote; a ModelError unless each has its place, of the same shape."""
        saved = load_file(folder / WEIGHTS)
        # The new modules of a head were trained beside it: their names are in the file alone.
        own = dict(self.model.named_parameters())
        wrong = [name for name, value in saved.items() if name not in own or own[name].shape != value.shape]
        wrong = wrong or sorted(self.names - saved.keys())
        if wrong:
            raise ModelError(
                f"{len(wrong)} weights do not match this model, for example {wrong[0]}",
                where=str(folder),
                fix="name the base it was trained on as model.base",
            )
        self.names |= saved.keys()
        for name, value in saved.items():
            own[name].copy_(value)
            own[name].requires_grad_(trainable)
