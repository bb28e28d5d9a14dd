"""Chains of pointwise work as one kernel on a GPU.

There each operation is a pass over memory, and a chain of them that torch.compile makes one is that much faster; on a
CPU the chains here are written for its caches, and run as they are written. A function is compiled when it is first
called with a tensor on CUDA, for all lengths at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

MAX_VARIANTS = 64
"""Types, widths and strides that one function may be compiled for; torch's own limit is 8, and beyond it it raises."""

COMPILE_OPTIONS: dict[str, Any] = {"split_reductions": False}
"""Else a sum is parted by the first length that is met, and a resumed run, which meets another, adds differently."""

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def compile_on_cuda(function: AnyFunction) -> AnyFunction:
    """The function of tensors, compiled where the first of them is on CUDA."""

    @wraps(function)
    def run(first: Tensor, *arguments: Any) -> Any:
        if not first.is_cuda:
            return function(first, *arguments)
        return compile_function(function)(*(mark_length_dynamic(one) for one in (first, *arguments)))

    return cast(AnyFunction, run)


@cache
def compile_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled, once for all lengths that are declared to be any, and for each width."""
    from torch._dynamo import config

    made = torch.compile(function, fullgraph=True, options=COMPILE_OPTIONS)

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        if config.recompile_limit < MAX_VARIANTS:  # each thread has its own
            config.recompile_limit = MAX_VARIANTS
        return made(*arguments, **options)

    return run


def mark_length_dynamic(value: Any) -> Any:
    """The value; of a tensor with more than one dimension the first that is not 1 is declared to be of any length.

    Were widths unknown as well, no kernel could read several numbers at once.
    """
    if isinstance(value, Tensor) and value.dim() > 1:
        place = next((place for place, size in enumerate(value.shape) if size != 1), None)
        if place is not None:
            torch._dynamo.maybe_mark_dynamic(value, place)
    return value
