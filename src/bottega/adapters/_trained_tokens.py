"""A model with trained tokens before every text, as ids beyond its vocabulary.

Whatever computes the model puts these ids before its tokens (`AdaptedModel.prefix`); the rows of a batch then share
them as they share any prefix. Saved in PEFT's format.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bottega.adapters._adapted import AdaptedInPlace
from bottega.adapters._base import WEIGHTS, InstallOptions
from bottega.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftConfig

    from bottega.adapters._token_adapter import TokenAdapter

# PEFT's name of the weights, whether they are embeddings, or keys and values.
SAVED = "prompt_embeddings"


class StandIn(nn.Module):
    """A module in the place of another, `original`: what it lacks, such as `weight`, is asked of that."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        # Not `base_layer`, by which PEFT knows layers of its own.
        self.original = original

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("original"), name)


class TokenEmbedding(StandIn):
    """An embedding of V tokens that also takes the ids from V on, those of trained tokens.

    trained  [n, …] what is trained of each
    """

    trained: nn.Parameter

    def __init__(self, original: nn.Module, trained: Tensor) -> None:
        super().__init__(original)
        self.trained = nn.Parameter(trained.detach().clone())


class AdaptedByTokens(AdaptedInPlace):
    """A model whose texts begin with trained tokens."""

    library = "peft"

    def __init__(self, model: Any, adapter: TokenAdapter, embedding: TokenEmbedding, options: InstallOptions) -> None:
        original = model.get_input_embeddings()
        name = next(name for name, module in model.named_modules() if module is original)
        model.set_input_embeddings(embedding)
        super().__init__(model, adapter, [f"{name}.trained"], options)
        self.embedding, size = embedding, len(original.weight)
        self.prefix = self._ids = tuple(range(size, size + adapter.tokens))

    def switch(self, on: bool) -> None:
        self.prefix = self._ids if on else ()

    @abstractmethod
    def peft_config(self, **shared: Any) -> PeftConfig:
        """The config with which PEFT loads it."""

    def save(self, folder: Path) -> None:
        weights = self.embedding.trained.detach().cpu().contiguous()
        save_file({SAVED: weights}, folder / WEIGHTS, metadata={"format": "pt"})
        self.peft_config(
            base_model_name_or_path=self.network.config.name_or_path,
            task_type="CAUSAL_LM",
            num_virtual_tokens=len(weights),
            num_transformer_submodules=1,
            inference_mode=True,
        ).save_pretrained(str(folder))

    @torch.no_grad()
    def load(self, folder: Path, trainable: bool) -> None:
        saved = load_file(folder / WEIGHTS).get(SAVED)
        own = self.embedding.trained
        if saved is None or saved.shape != own.shape:
            found = "no trained tokens" if saved is None else f"trained tokens of shape {tuple(saved.shape)}"
            raise ModelError(
                f"the adapter has {found}, and this model needs {tuple(own.shape)}",
                where=str(folder),
                fix="name the base it was trained on as model.base",
            )
        own.copy_(saved)
        own.requires_grad_(trainable)
