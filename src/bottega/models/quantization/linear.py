"""Linear layers whose weight stays as it is, and is kept in four or eight bits.

`nf4` is the 4-bit number of QLoRA (Dettmers et al. 2023, arXiv 2305.14314), in blocks of 64, their scales in eight bits
themselves; bitsandbytes packs and unpacks it. `fp8` is a number of four bits of exponent and three of mantissa with a
scale for each row of the weight (Micikevicius et al. 2022, arXiv 2209.05433); what it is multiplied with is rounded to
the same, row by row, which an accelerator multiplies as it is, and every other device after widening both.

Nothing here is trained: gradients pass through, so that an adapter beside it can be. They are never rounded: that of a
token that rows share is a sum over them, and rounding a sum is not the sum of what is rounded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from bottega.errors import ModelError
from bottega.models.compile import compile_on_cuda

BYTES_PER_WEIGHT: dict[str, float | None] = {"none": None, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "fp8": 1.0}
"""Bytes of a weight; None for those of its dtype."""

FP8_MAX = 448.0
"""The largest number of eight bits with four of exponent."""

FP8_MULTIPLE = 16
"""What an accelerator wants both sides of an eight-bit product to be a multiple of."""


class QuantizedLinear(nn.Linear):
    """A linear layer with a frozen weight [out, in] of another layer, packed.

    PEFT takes it for a linear layer, which it is; `weight` is unpacked anew at each look.

    is_linear  it computes x Wᵀ + b though its forward is its own; adapters ask for this name
    """

    is_linear = True

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype = layer.weight.dtype
        self.bias = layer.bias

    def ahead(self, x: Tensor) -> Tensor:
        """x [T, in] → x Wᵀ + bias [T, out]."""
        return nn.functional.linear(x, self.unpacked(), self.bias)

    def unpacked(self) -> Tensor:
        """The weight [out, in]; each kind has its own way."""
        raise NotImplementedError

    @property
    def bytes(self) -> int:
        """What the packed weight takes."""
        return sum(tensor.nbytes for tensor in self.buffers())

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.unpacked()

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] → […, out]; nothing but the packed weight is kept for the backward."""
        apply = cast(Callable[[Tensor, QuantizedLinear], Tensor], _FrozenProduct.apply)
        return apply(x.flatten(0, -2), self).view(*x.shape[:-1], self.out_features)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> QuantizedLinear:
        """Moved, never converted: packed numbers have no other dtype."""
        for name, tensor in self._buffers.items():
            if tensor is not None:
                self._buffers[name] = tensor.to(fn(torch.empty(0, device=tensor.device)).device)
        if self.bias is not None:
            self.bias.data = fn(self.bias.data)
        return self


class _FrozenProduct(torch.autograd.Function):
    """x Wᵀ + bias, of which x alone has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return layer.ahead(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.layer.unpacked(), None


class Nf4Linear(QuantizedLinear):
    """A weight in NF4 with scales in eight bits."""

    codes: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        packing = _bitsandbytes()
        codes, self.state = packing.quantize_4bit(layer.weight.data, compress_statistics=True, quant_type="nf4")
        self.register_buffer("codes", codes, persistent=False)

    def unpacked(self) -> Tensor:
        return cast(Tensor, _bitsandbytes().dequantize_4bit(self.codes, self.state))

    @property
    def bytes(self) -> int:
        scales: tuple[Tensor, ...] = self.state.absmax, self.state.state2.absmax
        return super().bytes + sum(part.nbytes for part in scales)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> QuantizedLinear:
        super()._apply(fn, recurse)
        self.state.to(self.codes.device)
        return self


class Fp8Linear(QuantizedLinear):
    """A weight in FP8 with a scale for each of its rows, multiplied with rows that are rounded likewise."""

    codes: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        codes, scale = quantize_fp8_rows(layer.weight.data)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def unpacked(self) -> Tensor:
        return (self.codes.float() * self.scale).to(self.dtype)

    def ahead(self, x: Tensor) -> Tensor:
        codes, scale = quantize_fp8_rows(x)
        if _has_fp8_matmul(x):
            y = torch._scaled_mm(codes, self.codes.T, scale_a=scale, scale_b=self.scale.T, out_dtype=x.dtype)
        else:
            # A product of the largest two would be more than a number of float16.
            wide = torch.float32 if x.dtype == torch.float16 else x.dtype
            y = (codes.to(wide) @ self.codes.to(wide).T).float().mul_(scale).mul_(self.scale.T).to(x.dtype)
        return y if self.bias is None else y.add_(self.bias)


@compile_on_cuda
def quantize_fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x [R, C] in eight bits after division by a scale for each row, the scales [R, 1] in float32)."""
    wide = x.float()
    scale = wide.abs().amax(1, keepdim=True).div_(FP8_MAX).clamp_(min=torch.finfo(torch.float32).tiny)
    return (wide / scale).to(torch.float8_e4m3fn), scale


def _has_fp8_matmul(x: Tensor) -> bool:
    """Whether the device multiplies numbers of eight bits as they are, with a scale for each row, into those of x."""
    return x.is_cuda and x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) >= (9, 0)


LINEAR_CLASSES: dict[str, type[QuantizedLinear]] = {"nf4": Nf4Linear, "fp8": Fp8Linear}


def check_backend(kind: str) -> None:
    """A ModelError where what packs and unpacks this kind is not installed."""
    if kind == "nf4":
        _bitsandbytes()


def quantize_model(model: Any, kind: str, new: Collection[str]) -> None:
    """Pack the weights of every linear layer in the body of a model, in place; heads stay as they are.

    new  names of modules that are about to be trained
    """
    for name in quantizable_layers(model, kind, new):
        parent, _, place = name.rpartition(".")
        # Each is let go of as soon as it is packed.
        setattr(model.get_submodule(parent), place, LINEAR_CLASSES[kind](model.get_submodule(name)))


def quantizable_layers(model: Any, kind: str, new: Collection[str]) -> list[str]:
    """Names of the layers that `quantize` packs; a ModelError where there are none."""
    body = {id(module) for module in model.base_model.modules()}
    kept = {id(model.get_output_embeddings()), *(id(model.get_submodule(name)) for name in new)}
    found = [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and id(module) in body - kept and _has_valid_shape(module, kind)
    ]
    if not found:
        raise ModelError(
            f"{model.config.model_type} has no linear layers that {kind} could pack",
            where="model.quantize",
            fix="leave it out",
        )
    return found


class QuantizedSize(NamedTuple):
    """Layers that are packed in a model, their weights, and the bytes they take."""

    layers: int
    weights: int
    bytes: int


def quantized_size(model: nn.Module) -> QuantizedSize:
    """What of a model is packed."""
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    return QuantizedSize(len(layers), weights, sum(layer.bytes for layer in layers))


def _has_valid_shape(layer: nn.Linear, kind: str) -> bool:
    return kind == "nf4" or (layer.in_features % FP8_MULTIPLE == 0 and layer.out_features % FP8_MULTIPLE == 0)


@cache
def _bitsandbytes() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from bitsandbytes import functional
    except ImportError:
        raise ModelError(
            "4-bit weights need bitsandbytes", where="model.quantize", fix="pip install 'bottega[quantize]'"
        ) from None
    return functional
