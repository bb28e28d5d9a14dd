"""Linear layers with a frozen weight quantized to four or eight bits.

`nf4` is the 4-bit type of QLoRA (Dettmers et al. 2023, arXiv 2305.14314) in blocks of 64, whose scales are 8-bit
themselves; bitsandbytes quantizes and dequantizes it. `fp8` is E4M3 (Micikevicius et al. 2022, arXiv 2209.05433): four
bits of exponent and three of mantissa, with a scale per row of the weight. Its inputs are rounded likewise, row by
row; a GPU with FP8 matmuls multiplies both as they are, any other device after widening both.

The weights are not trained; gradients pass through, so that an adapter can be. Gradients are never rounded: that of a
token that rows share is a sum over them, and rounding a sum is not summing what is rounded.
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
from bottega.models.frozen_linear import FrozenLinear

# Bytes per weight; None: those of its dtype. NF4: 4 bits, an 8-bit scale per 64 weights, a float32 per 256 scales.
BYTES_PER_WEIGHT: dict[str, float | None] = {"none": None, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "fp8": 1.0}

# Weights that are quantized to NF4 at once: whole blocks.
NF4_PIECE = 1 << 16

# The largest finite E4M3 number.
FP8_MAX = 448.0

# CUDA's FP8 matmul needs both sides of a weight to be a multiple of this.
FP8_MULTIPLE = 16


class QuantizedLinear(FrozenLinear):
    """A linear layer whose weight is quantized."""

    is_quantized = True


class Nf4Linear(QuantizedLinear):
    """A weight in NF4, with double quantization of its scales."""

    codes: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        codes, self.state = quantize_nf4(layer.weight.data)
        # Not persistent: checkpoints hold the adapter, or the weights as they were.
        self.register_buffer("codes", codes, persistent=False)

    def whole_weight(self) -> Tensor:
        # bitsandbytes' state remembers shape, dtype and scales.
        return cast(Tensor, _bitsandbytes().dequantize_4bit(self.codes, self.state))

    @property
    def bytes(self) -> int:
        scales: tuple[Tensor, ...] = self.state.absmax, self.state.state2.absmax
        return super().bytes + sum(scale.nbytes for scale in scales)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> QuantizedLinear:
        super()._apply(fn, recurse)
        self.state.to(self.codes.device)
        return self


def quantize_nf4(weight: Tensor) -> tuple[Tensor, Any]:
    """(codes, state) of a weight, as bitsandbytes' `quantize_4bit` with `compress_statistics` has them.

    Piece by piece: of a whole weight it needs seven times the memory while it works.
    """
    bitsandbytes = _bitsandbytes()
    pieces = [
        bitsandbytes.quantize_4bit(piece, quant_type="nf4") for piece in torch.split(weight.reshape(-1), NF4_PIECE)
    ]
    scales = torch.cat([state.absmax for _, state in pieces])
    offset = scales.mean()
    state = pieces[0][1]
    state.absmax, state.state2 = bitsandbytes.quantize_blockwise(scales - offset, blocksize=256)
    state.shape, state.offset, state.nested = weight.shape, offset, True
    return torch.cat([codes for codes, _ in pieces]), state


class Fp8Linear(QuantizedLinear):
    """A weight in FP8 with a scale per row, multiplied with inputs that are rounded the same way."""

    codes: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        codes, scale = quantize_fp8_rows(layer.weight.data)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def whole_weight(self) -> Tensor:
        return (self.codes.float() * self.scale).to(self.dtype)

    def matmul(self, x: Tensor) -> Tensor:
        codes, scale = quantize_fp8_rows(x)
        if _has_fp8_matmul(x):
            y = torch._scaled_mm(codes, self.codes.T, scale_a=scale, scale_b=self.scale.T, out_dtype=x.dtype)
        else:
            # In float16 the product of the two largest FP8 numbers would overflow.
            wide = torch.float32 if x.dtype == torch.float16 else x.dtype
            y = (codes.to(wide) @ self.codes.to(wide).T).float().mul_(scale).mul_(self.scale.T).to(x.dtype)
        return y if self.bias is None else y.add_(self.bias)


@compile_on_cuda
def quantize_fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [R, C] → (FP8 codes [R, C] of each row divided by its scale, scales [R, 1] in float32)."""
    wide = x.float()
    # At least the smallest normal number: a row of zeros must not be divided by 0.
    scale = wide.abs().amax(1, keepdim=True).div_(FP8_MAX).clamp_(min=torch.finfo(torch.float32).tiny)
    return (wide / scale).to(torch.float8_e4m3fn), scale


def _has_fp8_matmul(x: Tensor) -> bool:
    """Whether the device multiplies FP8 with row-wise scales into the dtype of x (Hopper or later, bfloat16)."""
    return x.is_cuda and x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) >= (9, 0)


LINEAR_CLASSES: dict[str, type[QuantizedLinear]] = {"nf4": Nf4Linear, "fp8": Fp8Linear}


def check_backend(kind: str) -> None:
    """Raise a ModelError if the library that this kind needs is not installed."""
    if kind == "nf4":
        _bitsandbytes()


def quantize_model(model: Any, kind: str, new: Collection[str]) -> None:
    """Quantize every linear layer in the body of a model, in place; heads stay as they are.

    new  names of modules that are about to be trained, and stay too
    """
    for name in quantizable_layers(model, kind, new):
        parent, _, attribute = name.rpartition(".")
        # One at a time: the old layer is freed before the next is quantized.
        setattr(model.get_submodule(parent), attribute, LINEAR_CLASSES[kind](model.get_submodule(name)))


def quantizable_layers(model: Any, kind: str, new: Collection[str]) -> list[str]:
    """Names of the layers that `quantize_model` quantizes; a ModelError if there are none."""
    body = {id(module) for module in model.base_model.modules()}
    # The output embeddings may be tied to those of the input, and are then found in the body as well.
    kept = {id(model.get_output_embeddings()), *(id(model.get_submodule(name)) for name in new)}
    names = [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and id(module) in body - kept and _has_valid_shape(module, kind)
    ]
    if not names:
        raise ModelError(
            f"{model.config.model_type} has no linear layers that {kind} can quantize",
            where="model.quantize",
            fix="leave it out",
        )
    return names


class QuantizedSize(NamedTuple):
    """Quantized layers of a model: their number, that of their weights, and the bytes they take."""

    layers: int
    weights: int
    bytes: int


def quantized_size(model: nn.Module) -> QuantizedSize:
    """How much of a model is quantized."""
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
