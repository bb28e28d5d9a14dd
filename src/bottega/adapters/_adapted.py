"""A model with an adapter on it: what can be done with it, and the usual way for adapters that change it in place."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bottega.adapters._base import CONFIG, WEIGHTS, Adapter, InstallOptions
from bottega.batch import Batch
from bottega.errors import ModelError


class RowParts(NamedTuple):
    """What an adapter computes with, where only some of the tokens that are computed together use it.

    layers           by the name of a linear layer, what computes such tokens in its place; its own base is that layer
    embeddings       [n, H] of trained tokens that stand before a text
    keys_and_values  [n, 2 · L, g, D] of such tokens, in each layer: see `_prefixed`
    """

    layers: Mapping[str, nn.Module] = {}
    embeddings: Tensor | None = None
    keys_and_values: Tensor | None = None

    @property
    def tokens(self) -> int:
        """How many trained tokens stand before a text."""
        return sum(len(trained) for trained in (self.embeddings, self.keys_and_values) if trained is not None)


class AdaptedModel(ABC):
    """A model with an adapter.

    model    the module to train, to save and to move between devices
    network  the transformers model in it, to call
    library  which library loads the saved folder again
    prefix   token ids that stand before every text; none while it is disabled

    needs_packing   it is computed in packed rows only
    """

    needs_packing: ClassVar[bool] = False

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

    def restore(self, folder: Path) -> None:
        """Take what `save` wrote of the frozen weights of the adapter; those that are trained are restored already."""
        return

    def merge(self) -> nn.Module:
        """The base model with the adapter added to its weights, in place; a ModelError where that is impossible."""
        raise ModelError(
            "an adapter of this kind cannot be merged into the weights of its base",
            where="adapter.kind",
            fix="use the base with the adapter beside it",
        )

    def take_off(self) -> RowParts:
        """Take the adapter off the network, to be used for some tokens only.

        Raises a ModelError if it changes anything but linear layers, or tokens before a text.
        """
        raise not_for_rows("it is of a kind that is computed for all tokens")

    @property
    def invocation(self) -> tuple[int, ...]:
        """Token ids from whose last occurrence on a row uses the adapter; none: the whole row."""
        return ()

    def mark_batch(self, batch: Batch) -> Batch:
        """The batch with the token ids by which the network knows where it uses the adapter."""
        return batch

    def count_marked(self, batch: Batch) -> int:
        """How many tokens of a batch would use the adapter."""
        return len(batch.tokens)

    def mark_prompt(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """A prompt with such ids; what is generated after it uses the adapter if its last token does."""
        return ids

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

    A kind names the modules or weights that it adds, and overrides `switch`. New modules of a head, and others that are
    to be trained whole, are trained with them; all else is frozen.

    names      parameters of the model that are trained
    originals  those of them that the base has, as they were
    """

    def __init__(self, model: nn.Module, adapter: Adapter, trained: Sequence[str], options: InstallOptions) -> None:
        self.model = self.network = model
        self.adapter = adapter
        self.names = _weights_of(model, [*trained, *options.new_modules, *options.whole])
        own = dict(model.named_parameters())
        self.originals = {name: own[name].detach().clone() for name in _weights_of(model, options.whole)}
        for name, weight in own.items():
            weight.requires_grad_(name in self.names)
        for name in options.whole:
            if not _weights_of(model, [name]):
                fix = "take lora, which gives it a weight of its own, or leave it out"
                raise ModelError(f"{name} has the weight of another module", where="adapter.train", fix=fix)

    def switch(self, on: bool) -> None:
        """Let the model compute with what the kind added to it, or without."""
        return

    @contextmanager
    def disabled(self) -> Iterator[None]:
        own = dict(self.model.named_parameters())
        trained = {name: own[name].data for name in self.originals}
        self.switch(False)
        for name, value in self.originals.items():
            own[name].data = value.to(own[name].device)
        try:
            yield
        finally:
            self.switch(True)
            for name, value in trained.items():
                own[name].data = value

    def save(self, folder: Path) -> None:
        trained = {name: weight for name, weight in self.model.named_parameters() if name in self.names}
        weights = {name: weight.detach().cpu().contiguous() for name, weight in trained.items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        config = {
            "kind": self.adapter.kind,
            "base_model_name_or_path": self.network.config.name_or_path,
            "settings": self.adapter.model_dump(mode="json", exclude={"start"}),
            "whole": sorted(self.originals),
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")

    @torch.no_grad()
    def load(self, folder: Path, trainable: bool) -> None:
        """Take the weights that `save` wrote; a ModelError unless each has its place, of the same shape."""
        saved = load_file(folder / WEIGHTS)
        # What was trained beside it is named in the file alone.
        own = dict(self.model.named_parameters())
        wrong = [name for name, value in saved.items() if name not in own or own[name].shape != value.shape]
        wrong = wrong or sorted(self.names - saved.keys())
        if wrong:
            raise ModelError(
                f"{len(wrong)} weights do not match this model, for example {wrong[0]}",
                where=str(folder),
                fix="name the base it was trained on as model.base",
            )
        whole = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("whole", [])
        self.originals |= {name: own[name].detach().clone() for name in whole}
        self.names |= saved.keys()
        for name, value in saved.items():
            own[name].copy_(value)
            own[name].requires_grad_(trainable)


class NotForRows(ModelError):
    """An adapter that cannot be used for some only of the tokens that are computed together."""


def not_for_rows(why: str) -> NotForRows:
    """The error for an adapter that cannot share its base, and why."""
    return NotForRows(f"the adapter cannot share its base: {why}", where="the adapter", fix="load it by itself")


def _weights_of(model: nn.Module, names: Sequence[str]) -> frozenset[str]:
    """The names of the weights that modules, or weights, of these names have; one that modules share has one name."""
    prefixes = tuple(f"{name}." for name in names)
    return frozenset(name for name, _ in model.named_parameters() if f"{name}.".startswith(prefixes))
