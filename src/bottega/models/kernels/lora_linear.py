"""Linear layers with and without LoRA: forward and backward as building blocks of other autograd functions.

PEFT computes base + scale · (x Aᵀ) Bᵀ as separate operations, and autograd sums the gradients to x in another. Here the
matmul itself adds the low-rank products to the base's, forward and backward; layers with a common input share products
where they can, and only x and u = x Aᵀ are kept; a layer that keeps its weight quantized or packed computes the base.
Tokens of several adapters, one run of neighbours after the other, have the base's product in common. A layer that does
not fit (dropout, several adapters, a base that is not a linear layer) keeps PEFT's own forward.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from bottega.models.arithmetic.plain import PLAIN, Arithmetic, LinearGradients, LinearLayers, LinearNeeds
from bottega.models.frozen_linear import FrozenLinear
from bottega.models.native.packed_linear import PackedLinear


class Segment(NamedTuple):
    """Neighbouring tokens that have one adapter: tokens start:end, with rows first:last of A, the same columns of B."""

    start: int
    end: int
    first: int
    last: int
    scale: float


# What of a layer is no tensor with a gradient: its scale, the layer itself if it keeps its weight in a form of its own,
# its gate, its segments, and its rows.
LinearConstants = tuple[float, FrozenLinear | None, Tensor | None, tuple[Segment, ...], Tensor | None]

# Attribute of a layer whose adapter differs from token to token (`models.row_adapters`).
ROW_ADAPTER = "row_adapter"


class LinearTensors(NamedTuple):
    """y = x Wᵀ + bias + scale · (x Aᵀ) Bᵀ; weight [out, in], A [r, in], B [out, r]; A and B may be absent.

    frozen  the layer itself if it keeps its weight in a form of its own; `weight` is then None
    gate    [T, r] factors of x Aᵀ, where tokens have different adapters; without a gradient
    segments  where tokens have different adapters, and A and B are those of all: which rows of these they use
    rows    [G] the tokens that have an adapter, if not all have one; `gate` is then [G, r]
    """

    weight: Tensor | None
    bias: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0
    frozen: FrozenLinear | None = None
    gate: Tensor | None = None
    segments: tuple[Segment, ...] = ()
    rows: Tensor | None = None

    def forward(self, x: Tensor, u: Tensor | None, arithmetic: Arithmetic) -> Tensor:
        """x [T, in], u = scale · x Aᵀ [T, r] → y [T, out]."""
        if self.frozen is not None:
            return _add_product(self.frozen.matmul(x), u, self.b)
        terms = [(x, cast(Tensor, self.weight).T)]
        if u is not None and self.b is not None:
            terms.append((u, self.b.T))
        return arithmetic.multiply(terms, self.bias)

    def whole_weight(self) -> Tensor:
        """[out, in], computed from its own form if the layer keeps it in one."""
        return cast(Tensor, self.weight) if self.frozen is None else self.frozen.whole_weight()


def linear_tensors(layer: nn.Module, x: Tensor) -> LinearTensors | None:
    """The tensors by which `layer` computes `x`; None if it computes anything else."""
    if not matches(layer):
        base, routed = _base_tensors(layer), getattr(layer, ROW_ADAPTER, None)
        return base if base is None or routed is None else routed.on(base)
    adapted = cast(Any, layer)
    base = _base_tensors(adapted.base_layer)
    if base is None or adapted.merged:
        return None
    if adapted.disable_adapters:
        return base
    names = adapted.active_adapters
    scales = {adapted.scaling.get(name) for name in names}
    if len(scales) != 1 or not all(_is_plain_lora(adapted, name, x.dtype) for name in names):
        return None
    a, b = ([matrices[name].weight for name in names] for matrices in (adapted.lora_A, adapted.lora_B))
    # Several are one whose rank is the sum of theirs.
    joined = (a[0], b[0]) if len(names) == 1 else (torch.cat(a), torch.cat(b, 1))
    return base._replace(a=joined[0], b=joined[1], scale=scales.pop())


def plain_matrices(layer: nn.Module, *, begins_later: bool = False) -> tuple[Tensor, Tensor, float] | None:
    """A, B and scale of a layer whose only adapter adds scale · (x Aᵀ) Bᵀ in evaluation; None of any other layer.

    begins_later  it does so from its invocation on, which PEFT takes for a variant
    """
    adapted = cast(Any, layer)
    if not matches(layer) or len(adapted.active_adapters) != 1:
        return None
    (name,) = adapted.active_adapters
    adapted.eval()
    if not begins_later and not _is_plain_lora(adapted, name, adapted.lora_A[name].weight.dtype):
        return None
    return adapted.lora_A[name].weight, adapted.lora_B[name].weight, adapted.scaling[name]


def _is_plain_lora(layer: Any, name: str, dtype: torch.dtype) -> bool:
    """Whether an adapter of a LoRA layer adds scale · (x Aᵀ) Bᵀ for an x of this dtype, and nothing else."""
    return (
        name in layer.lora_A
        and name not in layer.lora_variant  # DoRA and the like
        and layer.lora_A[name].weight.dtype == dtype
        and layer.lora_B[name].bias is None
        and (isinstance(layer.lora_dropout[name], nn.Identity) or not layer.training)
    )


def _base_tensors(layer: nn.Module) -> LinearTensors | None:
    """The tensors of a linear layer without adapter; None for anything else, subclasses of nn.Linear too."""
    if isinstance(layer, FrozenLinear):
        return LinearTensors(None, layer.bias, frozen=layer)
    return LinearTensors(layer.weight, layer.bias) if type(layer) is nn.Linear else None


def has_tensors(layer: nn.Module) -> bool:
    """Whether a layer without adapter is computed by such tensors."""
    return _base_tensors(layer) is not None


def matches(module: nn.Module) -> bool:
    """Whether this is a LoRA layer."""
    # Importing PEFT takes seconds, and where nobody has imported it there is no such layer.
    lora = sys.modules.get("peft.tuners.lora")
    return lora is not None and isinstance(module, lora.Linear)


def fused_forward(layer: nn.Module, arithmetic: Arithmetic = PLAIN) -> Callable[..., Tensor]:
    """The fused forward of a LoRA layer; PEFT's own in calls this does not fit."""
    return partial(_forward, layer, arithmetic)


def _forward(layer: Any, arithmetic: Arithmetic, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
    tensors = None if arguments or keywords else linear_tensors(layer, x)
    if tensors is None:
        return cast(Tensor, type(layer).forward(layer, x, *arguments, **keywords))
    (y,) = apply_linears([tensors], x.flatten(0, -2), arithmetic)
    return y.view(*x.shape[:-1], y.shape[-1])


def packed_handles(layers: Sequence[LinearTensors | None]) -> list[int] | None:
    """What operators in C++ call these layers; None unless all of them are packed, and without adapters."""
    packed = [layer.frozen for layer in layers if layer is not None and layer.a is None]
    handles = [layer.handle for layer in packed if isinstance(layer, PackedLinear)]
    return handles if len(handles) == len(layers) else None


def linear_forward(
    x: Tensor, layers: Sequence[LinearTensors], arithmetic: Arithmetic = PLAIN
) -> tuple[list[Tensor], Tensor | None]:
    """x [T, in] → ([T, out] of each layer, u = scale · x Aᵀ [T, Σr] of all their adapters)."""
    if any(layer.segments for layer in layers):
        return _segmented_forward(x, layers, arithmetic)
    if (rows := _rows(layers)) is not None:
        return _forward_of_rows(x, rows, layers, arithmetic)
    alike = _alike(layers)
    found = None if alike is None else arithmetic.linear_layers(x, alike)
    if found is not None:
        return found
    stacked = _stack_lora_a(layers)
    u = None if stacked is None else arithmetic.multiply([(x, stacked.T)])  # one product for all adapters
    gated = list[Tensor | None]()
    for layer, layer_u in zip(layers, _split_by_rank(u, layers), strict=True):
        if layer_u is not None and layer.scale != 1.0:
            layer_u.mul_(layer.scale)
        gated.append(layer_u if layer_u is None or layer.gate is None else layer_u * layer.gate)
    handles = packed_handles([layer._replace(a=None) for layer in layers])
    if handles is None:
        return [layer.forward(x, part, arithmetic) for layer, part in zip(layers, gated, strict=True)], u
    outputs = torch.ops.bottega.linears(x, handles)
    return [_add_product(y, part, layer.b) for y, layer, part in zip(outputs, layers, gated, strict=True)], u


def linear_backward(
    gradients: Sequence[Tensor],
    x: Tensor,
    u: Tensor | None,
    layers: Sequence[LinearTensors],
    needs: Sequence[bool],
    needs_x: bool,
    arithmetic: Arithmetic = PLAIN,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """(gradient of x [T, in], gradients of weight, bias, A and B of each layer), from those of the outputs [T, out].

    u        from the forward
    needs    which gradients are needed, four per layer
    needs_x  whether that of x is
    """
    if any(layer.segments for layer in layers):
        return _segmented_backward(gradients, x, u, layers, needs, needs_x, arithmetic)
    if (rows := _rows(layers)) is not None:
        return _backward_of_rows(gradients, x, rows, u, layers, needs, needs_x, arithmetic)
    multiply = arithmetic.multiply
    d_tensors: list[Tensor | None] = []
    if needs_x:
        layers = [layer._replace(weight=layer.whole_weight(), frozen=None) for layer in layers]
    alike = _alike([layer._replace(bias=None) for layer in layers])
    wanted = LinearNeeds(needs_x, any(needs[0::4]), any(needs[2::4]) or any(needs[3::4]))
    found = None if alike is None else arithmetic.linear_layers_backward(gradients, x, u, alike, wanted)
    if found is not None:
        return found.x, _tensor_gradients(found, gradients, layers, needs)
    for d_y, layer, (needs_weight, needs_bias, _, _) in zip(gradients, layers, _groups_of_four(needs), strict=True):
        d_weight = multiply([(d_y.T, x)]) if needs_weight else None
        d_bias = d_y.sum(0) if needs_bias and layer.bias is not None else None
        d_tensors += [d_weight, d_bias, None, None]
    terms = [(d_y, cast(Tensor, layer.weight)) for d_y, layer in zip(gradients, layers, strict=True)] if needs_x else []
    stacked = _stack_lora_a(layers)
    if stacked is not None and u is not None:
        d_u = _latent_gradients(gradients, layers, arithmetic)
        terms += [(d_u, stacked)] if needs_x else []
        d_a = _split_rows_by_rank(multiply([(d_u.T, x)]), layers) if any(needs[2::4]) else [None] * len(layers)
        for index, (d_y, layer, layer_u) in enumerate(zip(gradients, layers, _split_by_rank(u, layers), strict=True)):
            if layer.b is None or layer_u is None:
                continue
            if needs[4 * index + 2]:
                d_tensors[4 * index + 2] = d_a[index]
            if needs[4 * index + 3]:
                gated = layer_u if layer.gate is None else layer_u * layer.gate
                # The narrow factor first: half again as fast as the transposed product.
                d_tensors[4 * index + 3] = multiply([(gated.T, d_y)]).T
    return multiply(terms) if needs_x else None, d_tensors


def _segmented_forward(
    x: Tensor, layers: Sequence[LinearTensors], arithmetic: Arithmetic
) -> tuple[list[Tensor], Tensor]:
    """`linear_forward` where tokens have different adapters: of u [T, w] each token has the columns of its own."""
    outputs, _ = linear_forward(x, _without_adapters(layers), arithmetic)
    groups = _groups(layers)
    u = x.new_zeros(len(x), max(group.width for group in groups))
    for group in groups:
        rows = slice(group.start, group.end)
        own = u[rows, : group.width]
        own.copy_(arithmetic.multiply([(x[rows], group.stacked_a(layers).T)]))
        for index, segment, part in group.parts(own):
            part.mul_(segment.scale)
            outputs[index][rows].addmm_(part, _b(layers[index], segment).T)
    return outputs, u


def _segmented_backward(
    gradients: Sequence[Tensor],
    x: Tensor,
    u: Tensor | None,
    layers: Sequence[LinearTensors],
    needs: Sequence[bool],
    needs_x: bool,
    arithmetic: Arithmetic,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """`linear_backward` for `_segmented_forward`."""
    assert u is not None, "from the forward"
    bare_needs = [need and index % 4 < 2 for index, need in enumerate(needs)]
    d_x, d_tensors = linear_backward(gradients, x, None, _without_adapters(layers), bare_needs, needs_x, arithmetic)
    # Every row of A and every column of B belongs to one segment.
    for index, layer in enumerate(layers):
        if layer.a is not None and layer.b is not None:
            d_tensors[4 * index + 2 : 4 * index + 4] = torch.empty_like(layer.a), torch.empty_like(layer.b)
    for group in _groups(layers):
        rows = slice(group.start, group.end)
        d_u = x.new_empty(group.end - group.start, group.width)
        for index, segment, part in group.parts(d_u):
            part.copy_(arithmetic.multiply([(gradients[index][rows], _b(layers[index], segment))]).mul_(segment.scale))
        if d_x is not None:
            d_x[rows].addmm_(d_u, group.stacked_a(layers))
        d_a = arithmetic.multiply([(d_u.T, x[rows])])
        for (index, segment, part), (_, _, own) in zip(
            group.parts(d_a.T), group.parts(u[rows, : group.width]), strict=True
        ):
            cast(Tensor, d_tensors[4 * index + 2])[segment.first : segment.last] = part.T
            d_b = arithmetic.multiply([(own.T, gradients[index][rows])])
            cast(Tensor, d_tensors[4 * index + 3])[:, segment.first : segment.last] = d_b.T
    return d_x, d_tensors


def _rows(layers: Sequence[LinearTensors]) -> Tensor | None:
    """The tokens that have an adapter, the same in all layers that have one; None if all tokens have."""
    return next((layer.rows for layer in layers if layer.rows is not None), None)


def _forward_of_rows(
    x: Tensor, rows: Tensor, layers: Sequence[LinearTensors], arithmetic: Arithmetic
) -> tuple[list[Tensor], Tensor]:
    """`linear_forward` where some tokens have an adapter; u [G, Σr] of these, without scale and gate."""
    outputs, _ = linear_forward(x, _without_adapters(layers), arithmetic)
    u = arithmetic.multiply([(x[rows], cast(Tensor, _stack_lora_a(layers)).T)])
    for y, layer, part in zip(outputs, layers, _split_by_rank(u, layers), strict=True):
        if part is not None and layer.b is not None:
            y.index_add_(0, rows, _gated(part, layer) @ layer.b.T)
    return outputs, u


def _backward_of_rows(
    gradients: Sequence[Tensor],
    x: Tensor,
    rows: Tensor,
    u: Tensor | None,
    layers: Sequence[LinearTensors],
    needs: Sequence[bool],
    needs_x: bool,
    arithmetic: Arithmetic,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """`linear_backward` for `_forward_of_rows`."""
    bare_needs = [need and index % 4 < 2 for index, need in enumerate(needs)]
    d_x, d_tensors = linear_backward(gradients, x, None, _without_adapters(layers), bare_needs, needs_x, arithmetic)
    own = [d_y[rows] for d_y in gradients]
    d_u = torch.cat(
        [
            _gated(arithmetic.multiply([(d_y, layer.b)]), layer)
            for d_y, layer in zip(own, layers, strict=True)
            if layer.b is not None
        ],
        1,
    )
    if d_x is not None:
        d_x.index_add_(0, rows, d_u @ cast(Tensor, _stack_lora_a(layers)))
    d_a = _split_rows_by_rank(arithmetic.multiply([(d_u.T, x[rows])]), layers)
    for index, (d_y, layer, part) in enumerate(zip(own, layers, _split_by_rank(u, layers), strict=True)):
        if layer.b is not None and part is not None:
            d_b = arithmetic.multiply([(_gated(part, layer).T, d_y)]).T
            d_tensors[4 * index + 2 : 4 * index + 4] = d_a[index], d_b
    return d_x, d_tensors


def _gated(u: Tensor, layer: LinearTensors) -> Tensor:
    """What each token has of its own adapter, scaled."""
    return u * (layer.scale if layer.gate is None else layer.gate)


class _Group(NamedTuple):
    """The tokens start:end of layers with a common input, and the segment of each layer that has one there."""

    start: int
    end: int
    members: list[tuple[int, Segment]]

    @property
    def width(self) -> int:
        """The sum of the ranks."""
        return sum(one.last - one.first for _, one in self.members)

    def stacked_a(self, layers: Sequence[LinearTensors]) -> Tensor:
        """[w, in] the rows of A of all members."""
        matrices = [cast(Tensor, layers[index].a)[one.first : one.last] for index, one in self.members]
        return matrices[0] if len(matrices) == 1 else torch.cat(matrices)

    def parts(self, values: Tensor) -> Iterator[tuple[int, Segment, Tensor]]:
        """(layer, segment, its columns of [.., w]) of each member."""
        first = 0
        for index, one in self.members:
            yield index, one, values[:, first : (first := first + one.last - one.first)]


def _groups(layers: Sequence[LinearTensors]) -> list[_Group]:
    members: dict[tuple[int, int], list[tuple[int, Segment]]] = {}
    for index, layer in enumerate(layers):
        for one in layer.segments:
            members.setdefault((one.start, one.end), []).append((index, one))
    return [_Group(start, end, found) for (start, end), found in members.items()]


def _b(layer: LinearTensors, segment: Segment) -> Tensor:
    return cast(Tensor, layer.b)[:, segment.first : segment.last]


def _without_adapters(layers: Sequence[LinearTensors]) -> list[LinearTensors]:
    return [layer._replace(a=None, b=None, gate=None, segments=(), rows=None) for layer in layers]


def _tensor_gradients(
    found: LinearGradients, gradients: Sequence[Tensor], layers: Sequence[LinearTensors], needs: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of weight, bias, A and B of each layer that are needed."""
    d_a = [None] * len(layers) if found.a is None else _split_rows_by_rank(found.a, layers)
    d_tensors: list[Tensor | None] = []
    for index, (d_y, (weight, bias, a, b)) in enumerate(zip(gradients, _groups_of_four(needs), strict=True)):
        d_tensors.append(found.weights[index] if weight else None)
        d_tensors.append(d_y.sum(0) if bias and layers[index].bias is not None else None)
        d_tensors.append(d_a[index] if a else None)
        d_tensors.append(found.b[index] if b else None)
    return d_tensors


def _alike(layers: Sequence[LinearTensors]) -> LinearLayers | None:
    """The layers as lists; None if one keeps its weight in another form, or they differ in what they have."""
    with_bias, with_adapter = (sum(layer[place] is not None for layer in layers) for place in (1, 2))
    is_alike = with_bias in (0, len(layers)) and with_adapter in (0, len(layers))
    if not is_alike or any(layer.weight is None or layer.gate is not None for layer in layers):
        return None
    weights, biases, a, b = (
        [cast(Tensor, layer[place]) for layer in layers if layer[place] is not None] for place in range(4)
    )
    return LinearLayers(weights, biases, a, b, [layer.scale for layer in layers])


def _latent_gradients(gradients: Sequence[Tensor], layers: Sequence[LinearTensors], arithmetic: Arithmetic) -> Tensor:
    """[T, Σr] the gradients of x Aᵀ, of all adapters."""
    parts = [
        arithmetic.multiply([(d_y, layer.b)]).mul_(layer.scale if layer.gate is None else layer.gate)
        for d_y, layer in zip(gradients, layers, strict=True)
        if layer.b is not None
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _add_product(y: Tensor, u: Tensor | None, b: Tensor | None) -> Tensor:
    """y + u Bᵀ, in place; y if there is no adapter."""
    return y if u is None or b is None else y.addmm_(u, b.T)


def _stack_lora_a(layers: Sequence[LinearTensors]) -> Tensor | None:
    """[Σr, in] the A matrices of the layers that have one; None if none has."""
    matrices = [layer.a for layer in layers if layer.a is not None]
    return None if not matrices else matrices[0] if len(matrices) == 1 else torch.cat(matrices)


def _split_by_rank(u: Tensor | None, layers: Sequence[LinearTensors]) -> Sequence[Tensor | None]:
    """[T, Σr] → [T, r] for each layer, with r = 0 for one without an adapter; None for each if none has."""
    return [None] * len(layers) if u is None else torch.split(u, _ranks(layers), 1)


def _split_rows_by_rank(d_a: Tensor, layers: Sequence[LinearTensors]) -> Sequence[Tensor]:
    """[Σr, in] → [r, in] for each layer."""
    return torch.split(d_a, _ranks(layers))


def _ranks(layers: Sequence[LinearTensors]) -> list[int]:
    return [0 if layer.a is None else len(layer.a) for layer in layers]


def _groups_of_four(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + 4] for start in range(0, len(values), 4)]


def unflatten(tensors: Sequence[Any], constants: Sequence[LinearConstants]) -> list[LinearTensors]:
    """The layers from their tensors, four each, which is how autograd hands them back."""
    return [
        LinearTensors(weight, bias, a, b, *constant)
        for (weight, bias, a, b), constant in zip(_groups_of_four(tensors), constants, strict=True)
    ]


def flatten(layers: Sequence[LinearTensors]) -> list[Tensor | None]:
    """The inverse of `unflatten`: weight, bias, A and B of each layer, since autograd sees no tensors within tuples."""
    return [tensor for layer in layers for tensor in layer[:4]]


def linear_constants(layers: Sequence[LinearTensors]) -> list[LinearConstants]:
    """What `LinearConstants` holds, of each."""
    return [(layer.scale, layer.frozen, layer.gate, layer.segments, layer.rows) for layer in layers]


def apply_linears(layers: Sequence[LinearTensors], x: Tensor, arithmetic: Arithmetic = PLAIN) -> tuple[Tensor, ...]:
    """x [T, in] → [T, out] of each layer."""
    if not torch.is_grad_enabled():
        return tuple(linear_forward(x, layers, arithmetic)[0])
    apply = cast(Any, _FusedLinears.apply)
    return cast(tuple[Tensor, ...], apply(x, arithmetic, linear_constants(layers), *flatten(layers)))


class _FusedLinears(torch.autograd.Function):
    """Linear layers of one input."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, arithmetic: Arithmetic, constants: list[LinearConstants], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        outputs, u = linear_forward(x, unflatten(tensors, constants), arithmetic)
        ctx.save_for_backward(x, u, *tensors)
        ctx.constants, ctx.arithmetic = constants, arithmetic
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, u, *tensors = ctx.saved_tensors
        layers, needs = unflatten(tensors, ctx.constants), ctx.needs_input_grad
        d_x, d_tensors = linear_backward(gradients, x, u, layers, needs[3:], needs[0], ctx.arithmetic)
        return d_x, None, None, *d_tensors
