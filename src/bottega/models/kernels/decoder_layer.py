"""Decoder layers with a norm before their attention and one before their MLP (pre-norm, as in Llama).

x + attention(norm(x)), and the same with the MLP. In training the parts compute it, each with a kernel of its own. In
C++ a layer is one call, since for few tokens Python would take as long for its parts as the products.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models import native
from bottega.models.attention.native_step import NativeStepLayout
from bottega.models.kernels import attention, gated_mlp, rms_norm
from bottega.models.kernels.lora_linear import ROW_ADAPTER, linear_tensors, packed_handles
from bottega.models.native.packed_linear import PackedLinear

PARTS = {"input_layernorm": rms_norm, "self_attn": attention, "post_attention_layernorm": rms_norm, "mlp": gated_mlp}


def matches(module: nn.Module) -> bool:
    """Whether this has the four parts, and no other."""
    children = dict(module.named_children())
    return set(children) == set(PARTS) and all(kernel.matches(children[name]) for name, kernel in PARTS.items())


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """That of its attention."""
    return attention.sample_call(cast(nn.Module, module.self_attn), length)


def fused_forward(module: nn.Module) -> Callable[..., Tensor]:
    """The forward, of the parts as they are."""
    return partial(_forward, module)


def native_forward(module: nn.Module, fused: Callable[..., Tensor], proved: Collection[str]) -> Callable[..., Tensor]:
    """The forward in C++ of packed layers without adapters where no gradient is wanted; else `fused`.

    proved  the classes whose kernels compute them equally: the parts must be among them
    """
    norms, head_norms = _norms(module)
    parts = [*norms, *head_norms, module.self_attn, module.mlp]
    fits = (
        all(type(part).__name__ in proved for part in parts)
        and len(head_norms) in (0, 2)
        and len({rms_norm.settings(norm)[1] for norm in (*norms, *head_norms)}) == 1
        # Both halves of a head are rotated.
        and cast(int, cast(Any, module.self_attn).head_dim) % (2 * native.LANES) == 0
    )
    return _NativeLayer(module, fused) if fits else fused


def _forward(module: Any, hidden_states: Tensor, **keywords: Any) -> Tensor:
    attended, _ = module.self_attn(hidden_states=module.input_layernorm(hidden_states), **keywords)
    hidden_states = hidden_states + attended
    y: Tensor = hidden_states + module.mlp(module.post_attention_layernorm(hidden_states))
    return y


class _NativeLayer:
    """A layer as one call in the forwards of continuous batching."""

    def __init__(self, module: Any, fused: Callable[..., Tensor]) -> None:
        self.module, self.fused = module, fused
        norms, head_norms = _norms(module)
        settings = [rms_norm.settings(norm) for norm in (*norms, *head_norms)]
        self.epsilons, self.offset = [epsilon for epsilon, _ in settings], settings[0][1]
        self.activation = gated_mlp.activation_number(module.mlp)
        self.has_rotation = getattr(module.self_attn, "use_rope", True)

    def __call__(self, hidden_states: Tensor, **keywords: Any) -> Tensor:
        layout = keywords.get("layout")
        if not isinstance(layout, NativeStepLayout):
            return self.fused(hidden_states, **keywords)
        angles = [x[0, :, None] for x in keywords["position_embeddings"]] if self.has_rotation else []
        norms, head_norms = ([cast(Tensor, norm.weight) for norm in some] for some in _norms(self.module))
        handles = self._handles(hidden_states) if native.fits(hidden_states, *angles, *norms, *head_norms) else None
        if handles is None:
            return self.fused(hidden_states, **keywords)
        attention_part = self.module.self_attn
        own = (norms, self.epsilons, self.offset, handles, self.activation, attention_part.head_dim, head_norms, angles)
        arguments = layout.arguments(attention.attention_options(attention_part))
        return cast(Tensor, torch.ops.bottega.decoder_layer(hidden_states[0], *own, *arguments))[None]

    def _handles(self, x: Tensor) -> list[int] | None:
        """The handles of the projections; None if one is not packed, or has an adapter that is in use."""
        # As they are now: an adapter may have been put on them since. By their dictionaries, as this is asked in every
        # layer of every step.
        parts = vars(self.module)["_modules"]
        layers = [vars(parts["self_attn"])["_modules"][name] for name in attention.PROJECTIONS]
        layers += [vars(parts["mlp"])["_modules"][name] for name in gated_mlp.PROJECTIONS]
        if all(type(layer) is PackedLinear and ROW_ADAPTER not in vars(layer) for layer in layers):
            return [layer.handle for layer in layers]
        return packed_handles([linear_tensors(layer, x) for layer in layers])


def _norms(module: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """The norms of a layer, and those of its heads."""
    head_norms = (getattr(module.self_attn, name, None) for name in attention.HEAD_NORMS)
    return [module.input_layernorm, module.post_attention_layernorm], [norm for norm in head_norms if norm is not None]
