"""torch.compile for chains of pointwise operations on CUDA.

There each operation is a pass over memory, and one kernel for the chain saves all but one of them. On a CPU the chains
are written for its caches and run as they are. A function is compiled at its first call with a tensor on CUDA, for all
lengths at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

# Dtypes, widths and strides that one function may be compiled for. Beyond torch's default of 8, `fullgraph` raises.
MAX_VARIANTS = 64

# Otherwise inductor splits a sum according to the first length it meets, and a resumed run, which meets another one
# first, would add in another order.
COMPILE_OPTIONS: dict[str, Any] = {"split_reductions": False}

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def compile_on_cuda(function: AnyFunction) -> AnyFunction:
    """Decorator: compile a function of tensors if the first of them is on CUDA, else run it as it is."""

    @wraps(function)
    def run(first: Tensor, *arguments: Any) -> Any:
        if not first.is_cuda:
            return function(first, *arguments)
        return compile_function(function)(*(mark_length_dynamic(argument) for argument in (first, *arguments)))

    return cast(AnyFunction, run)


@cache
def compile_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled function: one kernel for all lengths marked as dynamic, one per width."""
    from torch._dynamo import config

    compiled = torch.compile(function, fullgraph=True, options=COMPILE_OPTIONS)

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        if config.recompile_limit < MAX_VARIANTS:  # the setting is per thread
            config.recompile_limit = MAX_VARIANTS
        return compiled(*arguments, **options)

    return run


def mark_length_dynamic(value: Any) -> Any:
    """The value; in a tensor of two or more dimensions, the first that is not 1 is marked as dynamic."""
    # That one alone: with a dynamic width too, kernels could not load several numbers at once. Size 1 is left out, as
    # torch specializes on it in any case.
    if isinstance(value, Tensor) and value.dim() > 1:
        dimension = next((index for index, size in enumerate(value.shape) if size != 1), None)
        if dimension is not None:
            torch._dynamo.maybe_mark_dynamic(value, dimension)
    return value
