"""Adapters of checkpoints: attached to their base, or merged into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import nn

from bottega import adapters
from bottega.adapters import WEIGHT_FILES
from bottega.errors import ModelError
from bottega.models.native.packed_linear import left_out_of_state
from bottega.models.safe_folder import check_weights
from bottega.models.source import quietly

if TYPE_CHECKING:
    from bottega.adapters import AdaptedModel, RowParts


def attach_saved(model: nn.Module, folder: Path, *, trainable: bool = False, reference: bool = False) -> AdaptedModel:
    """The model with the adapter of a folder; see `adapters.attach`."""
    check_weights(str(folder))
    with quietly(str(folder), "the adapter"), left_out_of_state():
        return adapters.attach(model, folder, trainable=trainable, reference=reference)


def can_share_base(folder: Path) -> bool:
    """Whether a saved adapter is of a kind that some tokens of a forward may use, and has nothing else."""
    kind = adapters.saved_kind(folder)
    ends = adapters.load(kind).row_weights if kind in adapters.kinds() else ()
    # Others are those of embeddings, and of modules that are trained whole.
    return all(name.endswith(ends) for name in weight_names(folder))


def read_parts(network: nn.Module, folder: Path) -> RowParts:
    """What a saved adapter computes with; the network is left as it was.

    Raises `NotForRows` where it changes more than linear layers and tokens before a text; first see `can_share_base`.
    """
    before = {name: dict(module.named_children()) for name, module in network.named_modules()}
    try:
        return attach_saved(network, folder).take_off()
    except BaseException:
        # Of an adapter that does not fit, some layers may be there already, and others use the network.
        for name, children in before.items():
            modules = network.get_submodule(name)._modules
            modules.clear()
            modules.update(children)
        raise


def merge_saved(model: nn.Module, adapter: Path, dtype: torch.dtype) -> nn.Module:
    """The model with the adapter of a folder merged into its weights, in float32 and rounded once."""
    _untie_head(model, adapter)
    adapted = attach_saved(model.float(), adapter)
    with quietly(str(adapter), "the adapter"):
        merged = adapted.merge()
    return merged.to(dtype).requires_grad_(True)


def _untie_head(model: Any, adapter: Path) -> None:
    """Give the head a weight of its own if the adapter changes tied embeddings at one end only, as it did in training.

    Merged into a weight that both share, it would change both; a ModelError where more than two share it.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return
    ends = [name for name, module in model.named_modules() if module in (head, embeddings)]
    if not any(f".{name}." in key for key in weight_names(adapter) for name in ends):
        return
    if model.config.is_encoder_decoder:
        raise ModelError(
            "the adapter changes embeddings that encoder, decoder and head share, and cannot be merged into them",
            where=str(adapter),
            fix="leave embeddings and head out of adapter.targets; all-linear does",
        )
    head.weight = nn.Parameter(head.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def weight_names(folder: Path) -> Iterator[str]:
    """Names of the weights of an adapter saved in a folder, which may be a checkpoint with the optimizer's state."""
    for file in sorted(folder.glob(WEIGHT_FILES)):
        with safe_open(file, framework="pt") as opened:
            yield from opened.keys()
