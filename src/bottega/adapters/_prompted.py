"""A model with trained embeddings before every text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bottega.adapters._adapted import RowParts
from bottega.adapters._base import InstallOptions
from bottega.adapters._trained_tokens import AdaptedByTokens, TokenEmbedding

if TYPE_CHECKING:
    from peft import PeftConfig

    from bottega.adapters.prompt import Prompt


class PromptedEmbedding(TokenEmbedding):
    """An embedding of V tokens with n trained rows [n, H] for the ids from V on."""

    def __init__(self, original: nn.Embedding, count: int) -> None:
        words = torch.randint(len(original.weight), (count,))
        super().__init__(original, original(words.to(original.weight.device)))

    def forward(self, ids: Tensor) -> Tensor:
        """[…] → […, H]."""
        size = len(self.weight)
        is_trained = ids >= size
        words: Tensor = self.original(ids.masked_fill(is_trained, 0))
        trained = nn.functional.embedding((ids - size).clamp(min=0), self.trained)
        return torch.where(is_trained[..., None], trained, words)


class AdaptedByPrompt(AdaptedByTokens):
    """A model whose texts begin with trained embeddings."""

    def peft_config(self, **shared: Any) -> PeftConfig:
        from peft import PromptTuningConfig

        config = self.network.config.get_text_config()
        return PromptTuningConfig(
            token_dim=self.embedding.trained.shape[1],
            num_attention_heads=getattr(config, "num_attention_heads", None),
            num_layers=getattr(config, "num_hidden_layers", None),
            **shared,
        )

    def take_off(self) -> RowParts:
        self.model.set_input_embeddings(self.embedding.original)
        return RowParts(embeddings=self.embedding.trained.detach())


def install_prompt(model: Any, adapter: Prompt, options: InstallOptions) -> AdaptedByPrompt:
    """Put trained embeddings before the texts of a model; see `Adapter.install`."""
    embedding = PromptedEmbedding(model.get_input_embeddings(), adapter.tokens)
    return AdaptedByPrompt(model, adapter, embedding, options)
