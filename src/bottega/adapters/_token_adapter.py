"""Adapters of trained tokens that stand before every text: what prompt tuning and prefix tuning share."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bottega.adapters._base import Adapter, InstallOptions
from bottega.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from bottega.adapters._adapted import AdaptedModel
    from bottega.adapters._trained_tokens import AdaptedByTokens


class TokenAdapter(Adapter):
    """Tokens that no vocabulary has; they start as random words."""

    row_weights: ClassVar[tuple[str, ...]] = ("prompt_embeddings",)

    if TYPE_CHECKING:
        # Declared by each kind after `kind`: a recipe keeps the order of its keys.
        tokens: int

    @abstractmethod
    def put_on(self, model: Any, options: InstallOptions) -> AdaptedByTokens:
        """Put new trained tokens on a model, in place."""

    @property
    def label(self) -> str:
        return f"{self.title} with {self.tokens} tokens"

    @property
    def virtual_tokens(self) -> int:
        return self.tokens

    def install(self, model: nn.Module, options: InstallOptions) -> AdaptedModel:
        if options.peft_task != "CAUSAL_LM":
            what = f"{self.title} is for decoders: in others the trained tokens would see the text that follows"
            raise ModelError(what, where="adapter.kind", fix="take another kind: lora, ia3, vera, bottleneck")
        return self.put_on(model, options)

    def attach(self, model: nn.Module, folder: Path, trainable: bool, reference: bool) -> AdaptedModel:
        self._refuse_reference(folder, reference)
        adapted = self.put_on(model, InstallOptions())
        adapted.load(folder, trainable)
        return adapted
