"""Fused kernels: modules of a model as autograd functions of their own, with the same results in fewer memory passes.

A kernel is one file with three functions: `matches(module)`, whether a module looks like its kind; `sample_call(module,
length)`, an input and keyword arguments to prove it on; `fused_forward(module, arithmetic)`, the faster forward, which
computes what lies between products by torch or in C++ (`models.arithmetic`). Which classes it really computes is not
read from names but proved on a small float32 copy, values and gradients, and stored in the run. A class without proof
keeps its own forward.
Where no gradient is wanted, kernels compute the same without what a backward needs; one with a fourth function,
`native_forward(module, fused, proved)`, then computes more at once in C++ (`models.native`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models.arithmetic.native import NATIVE
from bottega.models.arithmetic.plain import PLAIN
from bottega.models.kernels import (
    attention,
    decoder_layer,
    dropout,
    encoder_layer,
    gated_mlp,
    lora_linear,
    rms_norm,
)

KERNELS = (attention, rms_norm, gated_mlp, dropout, encoder_layer, decoder_layer)

# Largest difference, relative to the largest value, that counts as rounding.
TOLERANCE = 1e-4

# Tokens of the sample call: more than the sliding window of a small copy, so that a wrong window shows.
TRIAL_LENGTH = 9


def prove_kernels(model: nn.Module) -> tuple[str, ...]:
    """Names of the classes in `model`, a small float32 copy, whose modules a kernel computes equally."""
    modules = [module for module in model.modules() if _matching_kernel(module) is not None]
    matching = {type(module).__name__ for module in modules}
    # A class is dropped if any one of its modules differs: kernels are applied by class name.
    wrong = {type(module).__name__ for module in modules if not _is_equal(module)}
    return tuple(sorted(matching - wrong))


def apply_kernels(model: nn.Module, names: Collection[str], *, native: bool = False) -> None:
    """Give the modules of these classes, and every LoRA layer, their fused forward.

    native  they compute in C++ what fits there
    """
    arithmetic = NATIVE if native else PLAIN
    encoder_layers = [module for module in model.modules() if encoder_layer.matches(module)]
    for module in model.modules():
        if lora_linear.matches(module):
            module.forward = lora_linear.fused_forward(module, arithmetic)
        elif type(module).__name__ in names and (kernel := _matching_kernel(module)) is not None:
            # All layers of an encoder have one class, but only the last may skip positions.
            is_inner = module in encoder_layers[:-1]
            module.forward = (encoder_layer.whole_forward if is_inner else kernel.fused_forward)(module, arithmetic)
            if native and hasattr(kernel, "native_forward"):
                module.forward = kernel.native_forward(module, module.forward, names)


def _is_equal(module: nn.Module) -> bool:
    """Whether the fused forward gives the output and gradients of the module's own, and its output in inference."""
    module = copy.deepcopy(module).eval()
    # Norms are initialized with ones, which would hide what they do with their weight.
    for weight in module.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    kernel = _matching_kernel(module)
    assert kernel is not None
    try:
        x, keywords = kernel.sample_call(module, TRIAL_LENGTH)
        own, fused = (
            [*_output_and_gradients(forward, module, x, keywords), _inference_output(forward, x, keywords)]
            for forward in (module, kernel.fused_forward(module, PLAIN))
        )
    except Exception:  # a module that only looks alike: other arguments, or other types behind the names
        return False
    return all((a - b).abs().max() <= TOLERANCE * a.abs().max() for a, b in zip(own, fused, strict=True))


def _matching_kernel(module: nn.Module) -> ModuleType | None:
    # By module, not by class: a class may have modules that fit none, such as a norm without weights.
    return next((kernel for kernel in KERNELS if kernel.matches(module)), None)


@torch.inference_mode()
def _inference_output(forward: Callable[..., Any], x: Tensor, keywords: dict[str, Any]) -> Tensor:
    """The output for `x` of the path that keeps nothing for a backward."""
    return _first(forward(x, **keywords))


def _first(out: Any) -> Tensor:
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


def _output_and_gradients(
    forward: Callable[..., Any], module: nn.Module, x: Tensor, keywords: dict[str, Any]
) -> list[Tensor]:
    """The output for `x`, and the gradients of `x` and of every weight."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        out = _first(forward(x, **keywords))
        return [out, *torch.autograd.grad(out.pow(2).sum(), [x, *module.parameters()])]
