"""Parts of a model as autograd functions of their own: the same results in fewer passes over memory.

A part is one file: what it must look like, and a forward that is its own and what autograd makes of it in less time
and memory. Which classes of a model it fits is not read from their names but proved on a small float32 copy, values
and gradients; the names then stand in the run. What is not proved keeps its own forward.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from bottega.models.kernels import attention, dropout, encoder_last_layer, gated_mlp, lora_linear, rms_norm

KERNELS = (attention, rms_norm, gated_mlp, dropout, encoder_last_layer)
TOLERANCE = 1e-4
"""Largest difference, in parts of the largest value, taken for rounding."""

TRIAL_LENGTH = 9
"""Tokens it is proved on: more than the window of a small copy."""


def prove_kernels(model: nn.Module) -> tuple[str, ...]:
    """Names of the classes in `model`, small and in float32, whose modules a part here computes equally.

    Weights are moved first: a norm of ones would hide what it does with them.
    """
    modules = [module for module in model.modules() if _matching_kernel(module) is not None]
    kinds = {type(module).__name__ for module in modules}
    wrong = {type(module).__name__ for module in modules if not _is_equal(module)}
    return tuple(sorted(kinds - wrong))


def apply_kernels(model: nn.Module, names: Collection[str]) -> None:
    """Give modules of the classes named, and LoRA layers wherever they are, their faster forward."""
    layers = [module for module in model.modules() if encoder_last_layer.matches(module)]
    for module in model.modules():
        if lora_linear.matches(module):
            module.forward = lora_linear.fused_forward(module)
        elif (
            type(module).__name__ in names
            and module not in layers[:-1]
            and (part := _matching_kernel(module)) is not None
        ):
            module.forward = part.fused_forward(module)


def _is_equal(module: nn.Module) -> bool:
    module = copy.deepcopy(module).eval()
    for weight in module.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    part = _matching_kernel(module)
    assert part is not None
    try:
        x, given = part.sample_call(module, TRIAL_LENGTH)
        one, other = (_output_and_gradients(run, module, x, given) for run in (module, part.fused_forward(module)))
    except Exception:  # called with something else, or not made of what its names promise
        return False
    return all((a - b).abs().max() <= TOLERANCE * a.abs().max() for a, b in zip(one, other, strict=True))


def _matching_kernel(module: nn.Module) -> ModuleType | None:
    """The part it fits; a class may have modules that fit none, like a norm without weights."""
    return next((part for part in KERNELS if part.matches(module)), None)


def _output_and_gradients(run: Callable[..., Any], module: nn.Module, x: Tensor, given: dict[str, Any]) -> list[Tensor]:
    """The output for `x` and the gradients of it and of every weight."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        out = run(x, **given)
        out = out[0] if isinstance(out, tuple) else out
        return [out, *torch.autograd.grad(out.pow(2).sum(), [x, *module.parameters()])]
