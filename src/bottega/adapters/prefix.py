"""Prefix tuning: trained keys and values before every text, in each layer (Li & Liang 2021, arXiv 2101.00190)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bottega.adapters._base import ATTENTION, InstallOptions, LinearLayer, Start, ends_with
from bottega.adapters._token_adapter import TokenAdapter

if TYPE_CHECKING:
    from bottega.adapters._trained_tokens import AdaptedByTokens

# Ends of the names of layers that compute keys or values, and of those that compute queries, too.
KEYS_OR_VALUES = ("k_proj", "v_proj", "self_attention.key", "self_attention.value")
FUSED = ("c_attn", "qkv_proj", "query_key_value", "Wqkv", "qkv")


class PrefixTuning(TokenAdapter):
    """Keys and values of tokens that no vocabulary has; they start as those of random words."""

    title: ClassVar[str] = "prefix tuning"
    lr_scale: ClassVar[float] = 30.0

    kind: Literal["prefix"] = Field("prefix", description="Prefix tuning (Li & Liang 2021).")
    tokens: int = Field(20, ge=1, description="How many trained tokens stand before every text, in each layer.")
    start: Start = None

    def import_library(self) -> None:
        from bottega.adapters import _prefixed  # noqa: F401

    def put_on(self, model: Any, options: InstallOptions) -> AdaptedByTokens:
        from bottega.adapters._prefixed import install_prefix

        return install_prefix(model, self, options)

    def count(self, layers: Sequence[LinearLayer]) -> int:
        fused = {layer.name.rpartition(".")[0]: layer.outputs for layer in layers if ends_with(layer.name, FUSED)}
        widths = sum(layer.outputs for layer in layers if ends_with(layer.name, KEYS_OR_VALUES))
        for layer in layers:
            # What closes a block reads as much as there are queries.
            if ends_with(layer.name, ATTENTION) and (block := layer.name.rpartition(".")[0]) in fused:
                widths += fused[block] - layer.inputs
        return self.tokens * widths
