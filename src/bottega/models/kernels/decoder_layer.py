"""Decoder layers with a norm before their attention and one before their MLP (pre-norm, as in Llama).

x + attention(norm(x)), and the same with the MLP. In training the parts compute it, each with a kernel of its own. In
C++ all layers are one call, since for few tokens Python would take half as long for them as the products.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.adapters import KEYS_AND_VALUES
from bottega.models import native
from bottega.models.arithmetic.native import activation_number
from bottega.models.arithmetic.plain import PLAIN, Arithmetic
from bottega.models.attention.mask import AttentionOptions
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


def fused_forward(module: nn.Module, arithmetic: Arithmetic = PLAIN) -> Callable[..., Tensor]:
    """The forward, of the parts as they are; with gradients, each norm together with the sum that it reads."""
    settings = [rms_norm.settings(norm) for norm in _norms(module)[0]]
    return partial(_forward, module, settings, arithmetic)


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


def _forward(
    module: Any,
    settings: Sequence[tuple[float, float]],
    arithmetic: Arithmetic,
    hidden_states: Tensor,
    **keywords: Any,
) -> Tensor:
    """settings  of the two norms"""
    if torch.is_grad_enabled():
        first, second = module.input_layernorm.weight, module.post_attention_layernorm.weight
        x, normed = rms_norm.normalize_sum(hidden_states, None, first, *settings[0], arithmetic)
        attended, _ = module.self_attn(hidden_states=normed, **keywords)
        x, normed = rms_norm.normalize_sum(x, attended, second, *settings[1], arithmetic)
    else:
        attended, _ = module.self_attn(hidden_states=module.input_layernorm(hidden_states), **keywords)
        x = hidden_states + attended
        normed = module.post_attention_layernorm(x)
    y: Tensor = x + module.mlp(normed)
    return y


class _NativeLayer:
    """A layer in the forwards of continuous batching: one call computes it and the layers that follow it.

    That a layer gets what the one before it returned is not taken for granted: it is seen in the first forward, in
    which each layer is a call of its own.

    next  the layer that was seen to follow this one
    kind  what layers of one call have in common
    """

    def __init__(self, module: Any, fused: Callable[..., Tensor]) -> None:
        self.module, self.fused = module, fused
        self.next: _NativeLayer | None = None
        norms, head_norms = _norms(module)
        settings = [rms_norm.settings(norm) for norm in (*norms, *head_norms)]
        self.epsilons = [epsilon for epsilon, _ in settings]
        self.kind = (
            settings[0][1],
            activation_number(cast(str, gated_mlp.activation_name(module.mlp))),
            module.self_attn.head_dim,
            len(settings),
        )
        self.has_rotation = bool(getattr(module.self_attn, "use_rope", True))

    def __call__(self, hidden_states: Tensor, **keywords: Any) -> Tensor:
        layout, rotation = keywords.get("layout"), keywords.get("position_embeddings")
        if not isinstance(layout, NativeStepLayout) or rotation is None:
            return self.fused(hidden_states, **keywords)
        if layout.is_computed(hidden_states):
            return hidden_states
        if (before := layout.layer_before(hidden_states, rotation)) is not None:
            before.next = self
        run = self._run(hidden_states, layout) if native.fits(hidden_states, *rotation) else []
        if not run:
            return self.fused(hidden_states, **keywords)
        y = _compute(run, hidden_states, rotation, layout)
        layout.pass_on(y, run[-1][0], rotation, computed=len(run) - 1)
        return y

    def _run(self, x: Tensor, layout: NativeStepLayout) -> list[_Computed]:
        """This layer and those that follow it, as far as one call can compute them."""
        run, layer = list[_Computed](), cast("_NativeLayer | None", self)
        while layer is not None and layer.kind == self.kind and (not run or layout.has_one_memory):
            handles = layer._handles(x)
            weights = [cast(Tensor, norm.weight) for norms in _norms(layer.module) for norm in norms]
            if handles is None or not native.fits(x, *weights):
                break
            run.append((layer, handles, weights))
            layer = layer.next
        return run

    @cached_property
    def options(self) -> AttentionOptions:
        return attention.attention_options(self.module.self_attn)

    def _handles(self, x: Tensor) -> list[int] | None:
        """The handles of the projections; None if one is not packed, or an adapter of the layer is in use."""
        # As they are now: an adapter may have been put on them since. By their dictionaries, as this is asked for every
        # layer of every step.
        parts = vars(self.module)["_modules"]
        trained = vars(parts["self_attn"]).get(KEYS_AND_VALUES)
        if trained is not None and trained.is_used:
            return None
        layers = [vars(parts["self_attn"])["_modules"][name] for name in attention.PROJECTIONS]
        layers += [vars(parts["mlp"])["_modules"][name] for name in gated_mlp.PROJECTIONS]
        if all(type(layer) is PackedLinear and ROW_ADAPTER not in vars(layer) for layer in layers):
            return [layer.handle for layer in layers]
        return packed_handles([linear_tensors(layer, x) for layer in layers])


# A layer, the handles of its projections, and the weights of its norms and those of its heads.
_Computed = tuple[_NativeLayer, list[int], list[Tensor]]


def _compute(
    run: Sequence[_Computed], hidden_states: Tensor, rotation: tuple[Tensor, Tensor], layout: NativeStepLayout
) -> Tensor:
    """[1, T, H] after the layers."""
    layers = [layer for layer, _, _ in run]
    offset, activation, width, _ = layers[0].kind
    options = [layer.options for layer in layers]
    y: Tensor = torch.ops.bottega.decoder_layers(
        hidden_states[0],
        [weight for _, _, weights in run for weight in weights],
        [epsilon for layer in layers for epsilon in layer.epsilons],
        offset,
        [handle for _, handles, _ in run for handle in handles],
        activation,
        width,
        [x[0, :, None] for x in rotation],
        [int(layer.has_rotation) for layer in layers],
        *layout.next_layers(len(run)),
        [one.scaling for one in options],
        [one.window or 0 for one in options],
        [one.softcap or 0.0 for one in options],
    )
    return y[None]


def _norms(module: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """The norms of a layer, and those of its heads."""
    head_norms = (getattr(module.self_attn, name, None) for name in attention.HEAD_NORMS)
    return [module.input_layernorm, module.post_attention_layernorm], [norm for norm in head_norms if norm is not None]
