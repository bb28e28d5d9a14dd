"""A model with trained keys and values before every text.

In each layer the attention takes them in place of those computed for the ids of trained tokens (`KEYS_AND_VALUES`),
after the rotation.

Legend: n trained tokens, L layers, g key/value heads, D head width, T tokens of a flat sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from bottega.adapters._adapted import RowParts
from bottega.adapters._base import KEYS_AND_VALUES, InstallOptions
from bottega.adapters._trained_tokens import AdaptedByTokens, TokenEmbedding
from bottega.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftConfig

    from bottega.adapters.prefix import PrefixTuning


class TrainedKeys(NamedTuple):
    """Where trained tokens stand in what is computed next.

    places   [P] in the flat sequence
    numbers  [P] which of the n each is
    trained  [n, 2 · L, g, D] of each token the keys of layer 0, its values, the keys of layer 1 …
    """

    places: Tensor
    numbers: Tensor
    trained: Tensor


class PrefixedEmbedding(TokenEmbedding):
    """An embedding of V tokens that notes where the ids from V on stand in what is computed next.

    trained  [n, 2 · L · g · D] as PEFT lays it out: of each token the keys and values of layer 0, those of layer 1 …
    form     (2 · L, g, D)
    used     the trained tokens of what is computed next
    """

    def __init__(self, original: nn.Module, prefix: Tensor) -> None:
        super().__init__(original, prefix.flatten(1))
        self.form = prefix.shape[1:]
        self.used: tuple[TrainedKeys, ...] = ()

    def forward(self, ids: Tensor) -> Tensor:
        """[…] → […, H]; a trained token gets the embedding of token 0, which nothing is computed from."""
        size = len(self.weight)
        is_trained = ids >= size
        places = is_trained.flatten().nonzero()[:, 0]
        keys = TrainedKeys(places, ids.flatten()[places] - size, self.trained.view(-1, *self.form))
        self.used = (keys,) if len(places) else ()
        embedded: Tensor = self.original(ids.masked_fill(is_trained, 0))
        return embedded


class KeysAndValues:
    """The trained keys and values of one layer, which its attention asks for."""

    def __init__(self, used: Callable[[], Sequence[TrainedKeys]], layer: int) -> None:
        self.used, self.layer = used, layer

    @property
    def is_used(self) -> bool:
        """Whether trained tokens are among those of this forward."""
        return bool(self.used())

    def replace(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """[1, g, T, D] each, with the trained ones where the forward has trained tokens."""
        for places, numbers, trained in self.used():
            if key.shape[1:2] + key.shape[3:] != trained.shape[2:] or key.shape != value.shape:
                raise ModelError(
                    "its layers have keys of several shapes", where="adapter.kind", fix="take another kind"
                )
            own = trained[numbers][:, 2 * self.layer : 2 * self.layer + 2]  # [P, 2, g, D]
            keys, values = (part.transpose(0, 1)[None].to(key.dtype) for part in own.unbind(1))
            key, value = key.index_copy(2, places, keys), value.index_copy(2, places, values)
        return key, value


def use_trained_keys(model: nn.Module, used: Callable[[], Sequence[TrainedKeys]]) -> int:
    """Let the attention of each layer take the trained keys and values that `used` names; returns how many layers."""
    attentions: list[Any] = [module for module in model.modules() if _is_attention(module)]
    for module in attentions:
        setattr(module, KEYS_AND_VALUES, KeysAndValues(used, module.layer_idx))
    return len(attentions)


class AdaptedByPrefix(AdaptedByTokens):
    """A model whose texts begin with trained keys and values."""

    needs_packing = True
    embedding: PrefixedEmbedding

    def peft_config(self, **shared: Any) -> PeftConfig:
        from peft import PrefixTuningConfig

        parts, heads, width = self.embedding.form
        return PrefixTuningConfig(
            token_dim=heads * width,
            num_attention_heads=heads,
            num_layers=parts // 2,
            encoder_hidden_size=heads * width,
            **shared,
        )

    def take_off(self) -> RowParts:
        self.model.set_input_embeddings(self.embedding.original)
        use_trained_keys(self.model, tuple)
        return RowParts(keys_and_values=self.embedding.trained.detach().view(-1, *self.embedding.form))


def install_prefix(model: Any, adapter: PrefixTuning, options: InstallOptions) -> AdaptedByPrefix:
    """Put trained keys and values before the texts of a model; see `Adapter.install`."""
    words = model.get_input_embeddings()
    embedding = PrefixedEmbedding(words, _keys_and_values(model, torch.randint(len(words.weight), (adapter.tokens,))))
    layers = use_trained_keys(model, lambda: embedding.used)
    if 2 * layers != embedding.form[0]:
        raise _not_for(model, f"it has {layers} attention layers, and {embedding.form[0] // 2} keep keys")
    return AdaptedByPrefix(model, adapter, embedding, options)


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
