"""Prefix tuning: trained keys and values before every text, in each layer (Li & Liang 2021, arXiv 2101.00190)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.adapters._base import ATTENTION, Adapter, InstallOptions, LinearLayer, Start, ends_with
from bottega.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from bottega.adapters._adapted import AdaptedModel

# Ends of the names of layers that compute keys or values, and of those that compute queries, too.
KEYS_OR_VALUES = ("k_proj", "v_proj", "self_attention.key", "self_attention.value")
FUSED = ("c_attn", "qkv_proj", "query_key_value", "Wqkv", "qkv")


class PrefixTuning(Adapter):
    """Keys and values of tokens that no vocabulary has; they start as those of random words."""

    title: ClassVar[str] = "prefix tuning"
    lr_scale: ClassVar[float] = 30.0

    kind: Literal["prefix"] = Field("prefix", description="Prefix tuning (Li & Liang 2021).")
    tokens: int = Field(20, ge=1, description="How many trained tokens stand before every text, in each layer.")
    start: Start = None

    @property
    def label(self) -> str:
        return f"prefix tuning with {self.tokens} tokens"

    @property
    def virtual_tokens(self) -> int:
        return self.tokens

    def import_library(self) -> None:
        from bottega.adapters import _prefixed  # noqa: F401

    def install(self, model: nn.Module, options: InstallOptions) -> AdaptedModel:
        from bottega.adapters._prefixed import install_prefix

        if options.peft_task != "CAUSAL_LM":
            what = "prefix tuning is for decoders: in others the trained tokens would see the text that follows"
            raise ModelError(what, where="adapter.kind", fix="take another kind: lora, ia3, vera, bottleneck")
        return install_prefix(model, self, options)

    def attach(self, model: nn.Module, folder: Path, trainable: bool, reference: bool) -> AdaptedModel:
        from bottega.adapters._prefixed import install_prefix

        self._refuse_reference(folder, reference)
        adapted = install_prefix(model, self, InstallOptions())
        adapted.load(folder, trainable)
        return adapted

    def count(self, layers: Sequence[LinearLayer]) -> int:
        fused = {layer.name.rpartition(".")[0]: layer.outputs for layer in layers if ends_with(layer.name, FUSED)}
        widths = sum(layer.outputs for layer in layers if ends_with(layer.name, KEYS_OR_VALUES))
        for layer in layers:
            # What closes a block reads as much as there are queries.
            if ends_with(layer.name, ATTENTION) and (block := layer.name.rpartition(".")[0]) in fused:
                widths += fused[block] - layer.inputs
        return self.tokens * widths
