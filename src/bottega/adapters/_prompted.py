"""A model with trained embeddings before every text, as ids beyond its vocabulary.

Whatever computes the model puts these ids before its tokens (`AdaptedModel.prefix`); the rows of a batch then share
them as they share any prefix. Saved in PEFT's format.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bottega.adapters._adapted import AdaptedInPlace
from bottega.adapters._base import WEIGHTS, InstallOptions
from bottega.errors import ModelError

if TYPE_CHECKING:
    from bottega.adapters.prompt import Prompt

# PEFT's name of the embeddings.
EMBEDDINGS = "prompt_embeddings"


class PromptedEmbedding(nn.Module):
    """An embedding of V tokens with n trained rows for the ids from V on.

    Everything else that is asked of it, such as `weight`, is that of the embedding it stands for.
    """

    def __init__(self, base_layer: nn.Embedding, count: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        words = torch.randint(len(base_layer.weight), (count,))
        self.prompt = nn.Parameter(base_layer(words.to(base_layer.weight.device)).detach().clone())

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def forward(self, ids: Tensor) -> Tensor:
        """[…] → […, H]."""
        size = len(self.weight)
        is_trained = ids >= size
        words: Tensor = self.base_layer(ids.masked_fill(is_trained, 0))
        trained = nn.functional.embedding((ids - size).clamp(min=0), self.prompt)
        return torch.where(is_trained[..., None], trained, words)


class AdaptedByPrompt(AdaptedInPlace):
    """A model whose texts begin with trained embeddings."""

    library = "peft"

    def __init__(self, model: nn.Module, adapter: Prompt, trained: str, options: InstallOptions) -> None:
        super().__init__(model, adapter, [trained], options)
        self.embedding: PromptedEmbedding = model.get_input_embeddings()  # type: ignore[operator]
        self.prefix = self._ids = tuple(range(len(self.embedding.weight), len(self.embedding.weight) + adapter.tokens))

    def switch(self, on: bool) -> None:
        self.prefix = self._ids if on else ()

    def save(self, folder: Path) -> None:
        from peft import PromptTuningConfig

        config, weights = self.network.config.get_text_config(), self.embedding.prompt.detach().cpu().contiguous()
        save_file({EMBEDDINGS: weights}, folder / WEIGHTS, metadata={"format": "pt"})
        PromptTuningConfig(
            base_model_name_or_path=self.network.config.name_or_path,
            task_type="CAUSAL_LM",
            num_virtual_tokens=len(weights),
            token_dim=weights.shape[1],
            num_transformer_submodules=1,
            num_attention_heads=getattr(config, "num_attention_heads", None),
            num_layers=getattr(config, "num_hidden_layers", None),
            inference_mode=True,
        ).save_pretrained(str(folder))

    @torch.no_grad()
    def load(self, folder: Path, trainable: bool) -> None:
        saved = load_file(folder / WEIGHTS).get(EMBEDDINGS)
        own = self.embedding.prompt
        if saved is None or saved.shape != own.shape:
            found = "no embeddings" if saved is None else f"embeddings of shape {tuple(saved.shape)}"
            raise ModelError(
                f"the adapter has {found}, and this model needs {tuple(own.shape)}",
                where=str(folder),
                fix="name the base it was trained on as model.base",
            )
        own.copy_(saved)
        own.requires_grad_(trainable)


def install_prompt(model: Any, adapter: Prompt, options: InstallOptions) -> AdaptedByPrompt:
    """Put trained embeddings before the texts of a model; see `Adapter.install`."""
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    model.set_input_embeddings(PromptedEmbedding(embedding, adapter.tokens))
    return AdaptedByPrompt(model, adapter, f"{name}.prompt", options)
