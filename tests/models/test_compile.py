"""Functions compiled for CUDA run as they are on a CPU; one kernel serves all lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bottega.models.compile import compile_function, compile_on_cuda, mark_length_dynamic


def test_a_function_is_not_compiled_on_a_cpu() -> None:
    calls = []

    def scale(x: Tensor, factor: float) -> Tensor:
        """Scaled."""
        calls.append(factor)
        return x * factor

    compiled = compile_on_cuda(scale)
    x = torch.randn(3, 2, requires_grad=True)
    out = compiled(x, 2.0)
    out.sum().backward()
    assert torch.equal(out, 2 * x)
    assert torch.equal(x.grad, torch.full((3, 2), 2.0))
    assert calls == [2.0]
    assert (compiled.__name__, compiled.__doc__) == ("scale", "Scaled.")


@pytest.mark.parametrize(
    ("shape", "dynamic"), [((5, 4), {0}), ((1, 5, 4), {1}), ((1, 1, 4), {2}), ((1, 1), set()), ((5,), set())]
)
def test_the_first_dimension_that_is_not_one_is_dynamic(shape: tuple[int, ...], dynamic: set[int]) -> None:
    x = torch.zeros(shape)
    assert mark_length_dynamic(x) is x
    assert getattr(x, "_dynamo_weak_dynamic_indices", set()) == dynamic


def test_other_values_are_passed_through() -> None:
    assert mark_length_dynamic(0.5) == 0.5
    assert mark_length_dynamic(None) is None


def test_a_function_is_compiled_once() -> None:
    def double(x: Tensor) -> Tensor:
        return x * 2

    assert compile_function(double) is compile_function(double)
    assert compile_function(double).__name__ == "double"
