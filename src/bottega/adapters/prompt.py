"""Prompt tuning: trained embeddings that stand before every text (Lester et al. 2021, arXiv 2104.08691)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.adapters._base import Adapter, InstallOptions, LinearLayer, Start
from bottega.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from bottega.adapters._adapted import AdaptedModel


class Prompt(Adapter):
    """Embeddings of tokens that no vocabulary has; they start as those of random words."""

    title: ClassVar[str] = "prompt tuning"
    lr_scale: ClassVar[float] = 100.0

    kind: Literal["prompt"] = Field("prompt", description="Prompt tuning (Lester et al. 2021).")
    tokens: int = Field(20, ge=1, description="How many trained embeddings stand before every text.")
    start: Start = None

    @property
    def label(self) -> str:
        return f"prompt tuning with {self.tokens} tokens"

    @property
    def virtual_tokens(self) -> int:
        return self.tokens

    def import_library(self) -> None:
        from bottega.adapters import _prompted  # noqa: F401

    def install(self, model: nn.Module, options: InstallOptions) -> AdaptedModel:
        from bottega.adapters._prompted import install_prompt

        if options.peft_task != "CAUSAL_LM":
            what = "prompt tuning is for decoders: in others the trained tokens would see the text that follows"
            raise ModelError(what, where="adapter.kind", fix="take another kind: lora, ia3, vera, bottleneck")
        return install_prompt(model, self, options)

    def attach(self, model: nn.Module, folder: Path, trainable: bool, reference: bool) -> AdaptedModel:
        from bottega.adapters._prompted import install_prompt

        self._refuse_reference(folder, reference)
        adapted = install_prompt(model, self, InstallOptions())
        adapted.load(folder, trainable)
        return adapted

    def count(self, layers: Sequence[LinearLayer]) -> int:
        # The first layer of a decoder reads embeddings.
        return self.tokens * layers[0].inputs if layers else 0
