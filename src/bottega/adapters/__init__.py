"""Adapters: small sets of trained weights added to a frozen base model; one file a kind, found by its file name.

To add one, write `adapters/<kind>.py` with one subclass of `Adapter`: its fields are the keys of the recipe's section
`adapter`, and `install` puts it on a model. What comes back is an `AdaptedModel`, which can be switched off, saved and
merged; most kinds that change a model in place need only `AdaptedInPlace` with a switch of their own.

Loads without torch, for a recipe names an adapter.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bottega import plugins
from bottega.adapters._base import (
    CONFIG,
    KEYS_AND_VALUES,
    WEIGHT_FILES,
    Adapter,
    InstallOptions,
    LinearLayer,
    Start,
    WeightReader,
    Whole,
)
from bottega.errors import ModelError
from bottega.suggestions import suggest_name

if TYPE_CHECKING:
    from torch import nn

    from bottega.adapters._adapted import AdaptedInPlace as AdaptedInPlace
    from bottega.adapters._adapted import AdaptedModel as AdaptedModel
    from bottega.adapters._adapted import NotForRows as NotForRows
    from bottega.adapters._adapted import RowParts as RowParts
    from bottega.adapters._prefixed import TrainedKeys as TrainedKeys
    from bottega.adapters._prefixed import use_trained_keys as use_trained_keys
    from bottega.adapters._trained_tokens import StandIn as StandIn

__all__ = [
    "CONFIG",
    "DEFAULT",
    "KEYS_AND_VALUES",
    "WEIGHT_FILES",
    "AdaptedInPlace",
    "AdaptedModel",
    "Adapter",
    "InstallOptions",
    "LinearLayer",
    "NotForRows",
    "RowParts",
    "SavedAdapter",
    "StandIn",
    "Start",
    "TrainedKeys",
    "WeightReader",
    "Whole",
    "attach",
    "build",
    "is_adapter_folder",
    "kinds",
    "load",
    "read_saved",
    "saved_kind",
    "use_trained_keys",
]


def __getattr__(name: str) -> Any:
    """What needs torch, imported when it is used."""
    if name not in WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{WITH_TORCH[name]}"), name)


# Where what needs torch is defined.
WITH_TORCH = {
    **dict.fromkeys(("AdaptedInPlace", "AdaptedModel", "NotForRows", "RowParts"), "_adapted"),
    **dict.fromkeys(("TrainedKeys", "use_trained_keys"), "_prefixed"),
    "StandIn": "_trained_tokens",
}


# PEFT's types of the kinds that are here.
PEFT_TYPES = {"LORA": "lora", "IA3": "ia3", "VERA": "vera", "PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}

# Kinds of PEFT's that are computed here without PEFT: it would put the tokens around the model, not into it.
OF_TOKENS = ("prompt", "prefix")

# The kind of a recipe's `adapter` section that names none.
DEFAULT = "lora"


def kinds() -> list[str]:
    """Every adapter in the folder, by name."""
    return plugins.module_names(__path__)


def load(kind: str) -> type[Adapter]:
    """The adapter class of `adapters/<kind>.py`."""
    return plugins.load_class(__name__, kind, Adapter)


def build(options: Mapping[str, Any]) -> Adapter:
    """The adapter with these options, `kind` among them unless it is the default; a ValueError for an unknown kind."""
    kind = options.get("kind", DEFAULT)
    if kind not in kinds():
        raise ValueError(f"unknown kind {kind!r}; {suggest_name(str(kind), kinds())}")
    return load(kind).model_validate(dict(options))


class SavedAdapter(NamedTuple):
    """What the config of a saved adapter says: its base model, and its kind (None for any adapter in PEFT's format)."""

    base: str
    kind: str | None
    settings: Mapping[str, Any]


def saved_kind(folder: Path) -> str:
    """The kind of the adapter saved in a folder, or PEFT's type where that is none of these; errors: `read_saved`."""
    saved = read_saved(folder)
    if saved.kind is not None:
        return saved.kind
    peft_type = str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["peft_type"])
    return PEFT_TYPES.get(peft_type, peft_type)


def is_adapter_folder(folder: Path) -> bool:
    """Whether an adapter was saved in the folder."""
    return (folder / CONFIG).exists()


def read_saved(folder: Path) -> SavedAdapter:
    """The config of the adapter saved in a folder; a ModelError if it cannot be read or names no base model."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        base = str(config["base_model_name_or_path"])
        if "peft_type" not in config:
            return SavedAdapter(base, str(config["kind"]), dict(config.get("settings", {})))
        kind = PEFT_TYPES.get(config["peft_type"])
        if kind in OF_TOKENS:
            return SavedAdapter(base, kind, {"tokens": config["num_virtual_tokens"]})
        return SavedAdapter(base, None, {})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"does not say what it was trained on: {error}",
            where=str(folder / CONFIG),
            fix="put the whole file there, or train the adapter again",
        ) from None


def attach(model: nn.Module, folder: Path, *, trainable: bool = False, reference: bool = False) -> AdaptedModel:
    """The model with the adapter saved in a folder; a ModelError if the two do not fit.

    trainable  its weights will be trained further
    reference  keep a frozen copy of it, which `AdaptedModel.disabled` then switches to
    """
    saved = read_saved(folder)
    if saved.kind is None:
        from bottega.adapters._peft_model import attach_peft

        return attach_peft(model, folder, trainable=trainable, reference=reference)
    if saved.kind not in kinds():
        fix = f"this build has {', '.join(kinds())}"
        raise ModelError(f"adapter of an unknown kind {saved.kind!r}", where=str(folder / CONFIG), fix=fix)
    return load(saved.kind).model_validate(saved.settings).attach(model, folder, trainable, reference)
