"""A model with trained keys and values before every text, as ids beyond its vocabulary.

Whatever computes the model puts these ids before its tokens (`AdaptedModel.prefix`), so that rows share them as they
share any prefix. In each layer the attention takes the trained keys and values in place of those computed for these
ids (`KEYS_AND_VALUES`), after the rotation. Saved in PEFT's format.

Legend: n trained tokens, L layers, g key/value heads, D head width, T tokens of a flat sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bottega.adapters._adapted import AdaptedInPlace
from bottega.adapters._base import KEYS_AND_VALUES, WEIGHTS, InstallOptions
from bottega.errors import ModelError

if TYPE_CHECKING:
    from bottega.adapters.prefix import PrefixTuning

# PEFT's name of the keys and values.
SAVED = "prompt_embeddings"


class PrefixedEmbedding(nn.Module):
    """An embedding of V tokens that notes where the ids from V on stand in what is computed next.

    prefix   [n, 2 · L · g · D] as PEFT lays it out: of each token the keys and values of layer 0, those of layer 1 …
    form     (2 · L, g, D)
    places   where trained tokens stand in the flat sequence; None if there are none
    numbers  which of the n each of them is

    Everything else that is asked of it, such as `weight`, is that of the embedding it stands for.
    """

    def __init__(self, base_layer: nn.Embedding, prefix: Tensor) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.form = prefix.shape[1:]
        self.prefix = nn.Parameter(prefix.flatten(1).clone())
        self.places: Tensor | None = None
        self.numbers: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def forward(self, ids: Tensor) -> Tensor:
        """[…] → […, H]; a trained token gets the embedding of token 0, which nothing is computed from."""
        size = len(self.weight)
        is_trained = ids >= size
        places = is_trained.flatten().nonzero()[:, 0]
        self.places = places if len(places) else None
        self.numbers = ids.flatten()[places] - size
        embedded: Tensor = self.base_layer(ids.masked_fill(is_trained, 0))
        return embedded


class KeysAndValues:
    """The trained keys and values of one layer, which its attention asks for."""

    def __init__(self, embedding: PrefixedEmbedding, layer: int) -> None:
        self.embedding, self.layer = embedding, layer

    @property
    def is_used(self) -> bool:
        """Whether trained tokens are among those of this forward."""
        return self.embedding.places is not None

    def replace(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """[1, g, T, D] each, with the trained ones where the forward has trained tokens."""
        own = self.embedding
        if own.places is None:
            return key, value
        if key.shape[1:2] + key.shape[3:] != own.form[1:] or key.shape != value.shape:
            raise ModelError("its layers have keys of several shapes", where="adapter.kind", fix="take another kind")
        trained = own.prefix.view(-1, *own.form)[own.numbers][:, 2 * self.layer : 2 * self.layer + 2]  # [P, 2, g, D]
        keys, values = (part.transpose(0, 1)[None].to(key.dtype) for part in trained.unbind(1))
        return key.index_copy(2, own.places, keys), value.index_copy(2, own.places, values)


class AdaptedByPrefix(AdaptedInPlace):
    """A model whose texts begin with trained keys and values."""

    library = "peft"
    needs_packing = True

    def __init__(self, model: nn.Module, adapter: PrefixTuning, trained: str, options: InstallOptions) -> None:
        super().__init__(model, adapter, [trained], options)
        self.embedding: PrefixedEmbedding = model.get_input_embeddings()  # type: ignore[operator]
        self.prefix = self._ids = tuple(range(len(self.embedding.weight), len(self.embedding.weight) + adapter.tokens))

    def switch(self, on: bool) -> None:
        self.prefix = self._ids if on else ()

    def save(self, folder: Path) -> None:
        from peft import PrefixTuningConfig

        weights, (parts, heads, width) = self.embedding.prefix.detach().cpu().contiguous(), self.embedding.form
        save_file({SAVED: weights}, folder / WEIGHTS, metadata={"format": "pt"})
        PrefixTuningConfig(
            base_model_name_or_path=self.network.config.name_or_path,
            task_type="CAUSAL_LM",
            num_virtual_tokens=len(weights),
            token_dim=heads * width,
            num_transformer_submodules=1,
            num_attention_heads=heads,
            num_layers=parts // 2,
            encoder_hidden_size=heads * width,
            inference_mode=True,
        ).save_pretrained(str(folder))

    @torch.no_grad()
    def load(self, folder: Path, trainable: bool) -> None:
        saved = load_file(folder / WEIGHTS).get(SAVED)
        own = self.embedding.prefix
        if saved is None or saved.shape != own.shape:
            found = "no keys and values" if saved is None else f"keys and values of shape {tuple(saved.shape)}"
            raise ModelError(
                f"the adapter has {found}, and this model needs {tuple(own.shape)}",
                where=str(folder),
                fix="name the base it was trained on as model.base",
            )
        own.copy_(saved)
        own.requires_grad_(trainable)


def install_prefix(model: Any, adapter: PrefixTuning, options: InstallOptions) -> AdaptedByPrefix:
    """Put trained keys and values before the texts of a model; see `Adapter.install`."""
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    start = _keys_and_values(model, torch.randint(len(embedding.weight), (adapter.tokens,)))
    attentions = [module for module in model.modules() if _is_attention(module)]
    if 2 * len(attentions) != start.shape[1]:
        raise _not_for(model, f"it has {len(attentions)} attention layers, and {start.shape[1] // 2} keep keys")
    prefixed = PrefixedEmbedding(embedding, start)
    model.set_input_embeddings(prefixed)
    for module in attentions:
        setattr(module, KEYS_AND_VALUES, KeysAndValues(prefixed, module.layer_idx))
    return AdaptedByPrefix(model, adapter, f"{name}.prefix", options)


def _is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention") and isinstance(getattr(module, "layer_idx", None), int)


@torch.no_grad()
def _keys_and_values(model: Any, ids: Tensor) -> Tensor:
    """[n, 2 · L, g, D] of a text, in all layers; a ModelError for a model whose layers keep something else."""
    with _own_attention(model):
        cache = model(input_ids=ids[None].to(model.device), use_cache=True).get("past_key_values")
    layers = getattr(cache, "layers", [])
    parts = (getattr(layer, name, None) for layer in layers for name in ("keys", "values"))
    kept = [part for part in parts if isinstance(part, Tensor)]
    if not kept or len(kept) < 2 * len(layers) or len({(*part.shape[:2], part.shape[3]) for part in kept}) > 1:
        raise _not_for(model, "its layers do not keep keys and values of one shape")
    fewest = min(part.shape[2] for part in kept)
    if fewest < len(ids):
        what = f"some layers of this model see {fewest} tokens back, fewer than adapter.tokens"
        raise ModelError(what, where="adapter.tokens", fix=f"at most {fewest}")
    return torch.stack([part[0].transpose(0, 1) for part in kept], 1)


@contextmanager
def _own_attention(model: Any) -> Iterator[None]:
    """Inside, the model computes attention with its own code, whatever it was set to."""
    before, training = model.config._attn_implementation, model.training
    model.eval().set_attn_implementation("eager")
    try:
        yield
    finally:
        model.train(training).set_attn_implementation(before)


def _not_for(model: Any, why: str) -> ModelError:
    what = f"prefix tuning is not for {model.config.model_type}: {why}"
    return ModelError(what, where="adapter.kind", fix="take another kind: lora, ia3, vera, prompt")
