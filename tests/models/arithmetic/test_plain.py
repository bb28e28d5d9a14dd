"""The arithmetic of the kernels by torch against its definitions, gradients by autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bottega.models.arithmetic.plain import ACTIVATIONS, PLAIN, LogitOptions
from bottega.models.fast_dropout import DropoutDraw, make_keep_mask


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_gradients(found: list[Tensor | None], out: Tensor, d_out: Tensor, inputs: list[Tensor]) -> None:
    for one, other in zip(found, torch.autograd.grad(out, inputs, d_out), strict=True):
        assert one is not None
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_product_is_the_sum_of_its_terms(bias: bool) -> None:
    a, b, c, d, shift = numbers(5, 7), numbers(7, 3), numbers(5, 2), numbers(2, 3), numbers(3)
    wanted = a @ b + c @ d + (shift if bias else 0)
    torch.testing.assert_close(PLAIN.multiply([(a, b), (c, d)], shift if bias else None), wanted)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_norm_and_its_gradients(offset: float) -> None:
    x, weight = numbers(3, 5, 8), numbers(8)
    wanted = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * (weight + offset)
    with torch.no_grad():
        y, inverse, total = PLAIN.normalize(x, weight, 1e-3, offset)
        assert total is x
        torch.testing.assert_close(PLAIN.rms_norm(x, weight, 1e-3, offset), y)
        torch.testing.assert_close(y, wanted)
        d_y = torch.randn_like(y)
        gradients = PLAIN.normalize_backward(d_y, x, weight, inverse, offset, True)
        assert PLAIN.normalize_backward(d_y, x, weight, inverse, offset, False)[1] is None
    assert_gradients(list(gradients), wanted, d_y, [x, weight])


def test_a_norm_of_a_sum_which_others_read_too() -> None:
    x, second, weight = numbers(3, 8), numbers(3, 8), numbers(8)
    with torch.no_grad():
        y, inverse, total = PLAIN.normalize(x, weight, 1e-3, 0.0, second)
        assert torch.equal(total, x + second)
        torch.testing.assert_close(y, PLAIN.rms_norm(total, weight, 1e-3, 0.0))
        alone, _ = PLAIN.normalize_backward(y, total, weight, inverse, 0.0, False)
        both, _ = PLAIN.normalize_backward(y, total, weight, inverse, 0.0, False, second)
    torch.testing.assert_close(both, alone + second)


@pytest.mark.parametrize("dropped", [0, 20_000])
def test_a_layer_norm_of_a_sum_with_dropout(dropped: int) -> None:
    x, residual, weight, bias = numbers(5, 8), numbers(5, 8), numbers(8), numbers(8)
    kept = make_keep_mask(7, x.shape, dropped, x.device) != 0
    total = residual + (x * kept * 65536 / (65536 - dropped))
    wanted = F.layer_norm(total, (8,), weight, bias, 1e-3)
    draw = DropoutDraw(7, dropped)
    with torch.no_grad():
        y, found, *statistics = PLAIN.add_and_normalize(x, residual, weight, bias, 1e-3, draw)
        torch.testing.assert_close(found, total)
        torch.testing.assert_close(y, wanted)
        d_y = torch.randn_like(y)
        gradients = PLAIN.add_and_normalize_backward(d_y, found, weight, bias, *statistics, draw, True)
        few = PLAIN.add_and_normalize_backward(d_y, found, weight, bias, *statistics, draw, False)
    assert few[2:] == (None, None)
    assert torch.equal(few[0], gradients[0])
    assert_gradients(list(gradients), wanted, d_y, [x, residual, weight, bias])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_and_its_gradient(activation: str) -> None:
    x = numbers(5, 8)
    wanted = ACTIVATIONS[activation][0](x)
    with torch.no_grad():
        d_y = torch.randn_like(x)
        y, slope = PLAIN.activate_with_slope(x, activation)
        assert torch.equal(PLAIN.activate(x, activation), wanted)
        assert torch.equal(y, wanted)
    assert_gradients([d_y * slope], wanted, d_y, [x])


def test_a_rotation_and_its_gradient() -> None:
    x, cosine, sine = numbers(6, 3, 8), numbers(6, 1, 8), numbers(6, 1, 8)
    first, second = x.chunk(2, -1)
    wanted = x * cosine + torch.cat([-second, first], -1) * sine
    with torch.no_grad():
        torch.testing.assert_close(PLAIN.rotate(x, cosine, sine), wanted)
        d_y = torch.randn_like(wanted)
        gradient = PLAIN.rotate_backward(d_y, cosine, sine)
    assert_gradients([gradient], wanted, d_y, [x])


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_gate_and_its_gradients(activation: str) -> None:
    definitions: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    }
    gate, up = numbers(4, 6), numbers(4, 6)
    wanted = definitions[activation](gate) * up
    with torch.no_grad():
        torch.testing.assert_close(PLAIN.gated_product(gate, up, activation), wanted)
        d_product = torch.randn_like(wanted)
        gradients = PLAIN.gated_product_backward(d_product.clone(), gate, up, activation)
    assert_gradients(list(gradients), wanted, d_product, [gate, up])


@pytest.mark.parametrize("options", [LogitOptions(), LogitOptions(0.7, 3.0, 0.2)])
def test_log_probabilities_and_their_gradients(options: LogitOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bottega.models.arithmetic.plain.SOFTMAX_BLOCK_BYTES", 4 * 11 * 2)
    raw, label = numbers(5, 11), torch.randint(0, 11, (5,))
    scaled = options.scale * raw
    logits = scaled if options.softcap is None else options.softcap * torch.tanh(scaled / options.softcap)
    logp = logits.log_softmax(1)
    wanted = (1 - options.smoothing) * logp.gather(1, label[:, None])[:, 0] + options.smoothing * logp.mean(1)
    with torch.no_grad():
        torch.testing.assert_close(PLAIN.log_probabilities(raw.clone(), label, options, with_gradient=False), wanted)
        gradient = raw.clone()
        torch.testing.assert_close(PLAIN.log_probabilities(gradient, label, options, with_gradient=True), wanted)
    assert_gradients([gradient], wanted, torch.ones(5, dtype=torch.float64), [raw])
