"""The arithmetic in C++ against that by torch in float64: as near as torch's own in the same dtype."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bottega.models import native
from bottega.models.arithmetic.native import NATIVE, arithmetic_of
from bottega.models.arithmetic.plain import ACTIVATIONS, PLAIN, Arithmetic, LogitOptions
from bottega.models.fast_dropout import DropoutDraw

pytestmark = pytest.mark.skipif(native.operators() is None, reason="the operators in C++ are not built")

FORMS = [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)]


@pytest.fixture(autouse=True)
def _no_gradient() -> Iterator[None]:
    """As within autograd's functions: elsewhere torch computes."""
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def assert_near(found: Any, exact: Any, tolerance: float) -> None:
    """Of the largest number; pairs part by part."""
    for one, other in zip(found, exact, strict=True) if isinstance(found, tuple) else [(found, exact)]:
        assert (one is None) == (other is None)
        if one is not None:
            assert one.shape == other.shape
            assert (one.double() - other.double()).abs().max() <= tolerance * other.abs().max()


def call(name: str, dtype: torch.dtype, *arguments: Any, **options: Any) -> tuple[Any, Any]:
    """(the result in C++ of arguments in a dtype, that by torch of the same in float64)."""

    def cast(value: Any, to: torch.dtype) -> Any:
        return value.to(dtype).to(to) if isinstance(value, Tensor) and value.is_floating_point() else value

    found = getattr(NATIVE, name)(*(cast(value, dtype) for value in arguments), **options)
    return found, getattr(PLAIN, name)(*(cast(value, torch.float64) for value in arguments), **options)


@pytest.mark.parametrize(("dtype", "tolerance"), FORMS)
@pytest.mark.parametrize("shape", [(1, 32), (3, 70, 48)])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norms(dtype: torch.dtype, tolerance: float, shape: tuple[int, ...], offset: float) -> None:
    x, d_y, weight = torch.randn(shape), torch.randn(shape), torch.randn(shape[-1])
    found, exact = call("normalize", dtype, x, weight, 1e-3, offset)
    assert_near(found, exact, tolerance)
    assert_near(*call("normalize", dtype, x, weight, 1e-3, offset, d_y), tolerance)
    assert_near(*call("rms_norm", dtype, x, weight, 1e-3, offset), tolerance)
    x, d_y, weight = (tensor.to(dtype) for tensor in (x, d_y, weight))
    for needs_weight, other in ((True, None), (False, x + 1)):
        gradients = NATIVE.normalize_backward(d_y, x, weight, found[1], offset, needs_weight, other)
        wide = [tensor.double() for tensor in (d_y, x, weight)]
        wide_other = None if other is None else other.double()
        wanted = PLAIN.normalize_backward(*wide, found[1].double(), offset, needs_weight, wide_other)
        assert_near(gradients, wanted, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), FORMS)
@pytest.mark.parametrize("shape", [(1, 32), (150, 48)])
def test_layer_norms(dtype: torch.dtype, tolerance: float, shape: tuple[int, int]) -> None:
    x, residual, weight, bias, d_y = (torch.randn(size) for size in (shape, shape, shape[1:], shape[1:], shape))
    none = DropoutDraw(0, 0)
    found, exact = call("add_and_normalize", dtype, x, residual, weight, bias, 1e-3, none)
    assert_near(found, exact, tolerance)
    total, mean, inverse = (tensor.double() for tensor in found[1:])
    d_y, weight, bias = (tensor.to(dtype) for tensor in (d_y, weight, bias))
    for needs_weight in (True, False):
        gradients = NATIVE.add_and_normalize_backward(d_y, found[1], weight, bias, *found[2:], none, needs_weight)
        wide = (tensor.double() for tensor in (d_y, total, weight, bias, mean, inverse))
        assert_near(gradients, PLAIN.add_and_normalize_backward(*wide, none, needs_weight), tolerance)
        assert gradients[0] is not None


def test_dropout_in_a_layer_norm() -> None:
    """What is dropped is seen in the sum; the backward drops the same, and another seed or line others."""
    x, residual, weight = torch.ones(400, 96), torch.zeros(400, 96), torch.ones(96)
    masks = []
    for seed in (3, 3 << 40, 4):
        draw = DropoutDraw(seed, 20_000)
        y, total, *statistics = NATIVE.add_and_normalize(x, residual, weight, weight, 1e-3, draw)
        kept = total != 0
        assert torch.equal(total, kept * torch.tensor(65536 / 45536))
        assert abs(float(kept.float().mean()) - 45536 / 65536) < 0.01
        # Of neighbours in a line or a column, both are kept as often as chance has it.
        for one, other in ((kept[:, 1:], kept[:, :-1]), (kept[1:], kept[:-1])):
            assert abs(float((one & other).float().mean()) - (45536 / 65536) ** 2) < 0.01
        gradients = NATIVE.add_and_normalize_backward(y, total, weight, weight, *statistics, draw, False)
        torch.testing.assert_close(gradients[0], gradients[1] * total, rtol=1e-6, atol=0)
        masks.append(kept)
    for one, other in ((masks[0], masks[1]), (masks[0], masks[2]), (masks[1], masks[2])):
        assert abs(float((one & other).float().mean()) - (45536 / 65536) ** 2) < 0.01


@pytest.mark.parametrize(("dtype", "tolerance"), FORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(dtype: torch.dtype, tolerance: float, activation: str) -> None:
    x = 4 * torch.randn(37, 32)
    assert_near(*call("activate", dtype, x, activation), tolerance)
    assert_near(*call("activate_with_slope", dtype, x, activation), tolerance)


def test_gelu_is_near_also_where_it_is_small() -> None:
    x = torch.linspace(-5, 9, 16_000)
    exact, found = torch.nn.functional.gelu(x.double()), NATIVE.activate(x, "gelu")
    assert ((found - exact).abs() <= 4e-6 * exact.abs()).all(), "torch's own is 2e-4 of its value away there"


@pytest.mark.parametrize(("dtype", "tolerance"), FORMS)
@pytest.mark.parametrize("name", ["rotate", "rotate_backward"])
def test_rotations(dtype: torch.dtype, tolerance: float, name: str) -> None:
    x, cosine, sine = torch.randn(70, 3, 64), torch.randn(70, 1, 64), torch.randn(70, 1, 64)
    assert_near(*call(name, dtype, x, cosine, sine), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), FORMS)
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_gates(dtype: torch.dtype, tolerance: float, activation: str) -> None:
    # With numbers so far from zero that an exponential of them has none.
    gate, up, d_product = (torch.randn(65, 48) * scale for scale in (30, 1, 1))
    gate[0, :4] = torch.tensor([200.0, -200.0, 88.0, -88.0])
    assert_near(*call("gated_product", dtype, gate, up, activation), tolerance)
    assert_near(*call("gated_product_backward", dtype, d_product, gate, up, activation), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), FORMS)
@pytest.mark.parametrize("width", [1, 16, 257])
@pytest.mark.parametrize("options", [LogitOptions(), LogitOptions(0.7, 3.0, 0.2), LogitOptions(smoothing=0.1)])
def test_log_probabilities(dtype: torch.dtype, tolerance: float, width: int, options: LogitOptions) -> None:
    raw, label = (4 * torch.randn(9, width)).to(dtype), torch.randint(0, width, (9,))
    gradient, exact = raw.clone(), raw.double()
    found = NATIVE.log_probabilities(raw, label, options, with_gradient=False)
    assert torch.equal(NATIVE.log_probabilities(gradient, label, options, with_gradient=True), found)
    wanted = PLAIN.log_probabilities(exact, label, options, with_gradient=True)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert (gradient.double() - exact).abs().max() <= tolerance


def test_labels_that_are_very_unlikely_or_missing() -> None:
    raw = torch.tensor([[200.0, -200.0], [1.0, 1.0]])
    found = NATIVE.log_probabilities(raw, torch.tensor([1, 0]), LogitOptions(), with_gradient=True)
    assert found[0].item() == -400
    assert raw[0].tolist() == [-1.0, 1.0]
    with pytest.raises(RuntimeError, match="label 2 of 2"):
        NATIVE.log_probabilities(raw, torch.tensor([2, 0]), LogitOptions(), with_gradient=False)


def test_an_impossible_label_and_labels_that_lie_apart() -> None:
    raw, labels = torch.tensor([[1.0, -torch.inf, 2.0], [1.0, 2.0, 3.0]]), torch.tensor([[1, 7], [2, 7]])[:, 0]
    found = NATIVE.log_probabilities(raw, labels, LogitOptions(), with_gradient=False)
    torch.testing.assert_close(found, raw.log_softmax(1)[[0, 1], labels])


def test_other_sizes_are_refused_or_computed_by_torch() -> None:
    with pytest.raises(RuntimeError, match=r"a gate of \[3, 32\]"):
        NATIVE.gated_product(torch.ones(3, 32), torch.ones(1, 32), "silu")
    with pytest.raises(RuntimeError, match="a norm of"):
        NATIVE.rms_norm(torch.ones(3, 32), torch.ones(16), 1e-5, 0.0)
    x, weight, angle = torch.randn(3, 32), torch.randn(64)[::2], torch.randn(1, 1, 32)
    torch.testing.assert_close(NATIVE.rms_norm(x, weight, 1e-5, 0.0), PLAIN.rms_norm(x, weight, 1e-5, 0.0))
    torch.testing.assert_close(NATIVE.rotate(x[:, None], angle, angle), PLAIN.rotate(x[:, None], angle, angle))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(wrong: float) -> None:
    x = torch.ones(4, 32)
    x[2, 5] = wrong
    assert NATIVE.rms_norm(x, torch.ones(32), 1e-5, 0.0)[2].isnan().any()
    assert not NATIVE.gated_product(x, x, "silu")[2].isfinite().all()
    label = torch.zeros(4, dtype=torch.long)
    logp = NATIVE.log_probabilities(x, label, LogitOptions(), with_gradient=False)
    assert logp.isfinite().tolist() == [True, True, False, True]


@pytest.mark.parametrize("rows", [1, 16, 33, 700])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (48, 65), (16, 1), (9000, 40), (576, 1000)])
def test_products_are_rounded_once(rows: int, inputs: int, outputs: int) -> None:
    """However their factors lie, and with a second term, as LoRA adds one."""
    more, other, bias = (torch.randn(*size).bfloat16() for size in ((rows, 16), (16, outputs), (outputs,)))
    for turned_left in (False, True):
        for turned_right in (False, True):
            a = torch.randn(inputs, rows).T if turned_left else torch.randn(rows, inputs)
            b = torch.randn(outputs, inputs).T if turned_right else torch.randn(inputs, outputs)
            a, b = a.bfloat16(), b.bfloat16()
            found = NATIVE.multiply([(a, b), (more, other)], bias)
            assert found.dtype == torch.bfloat16
            terms = [a.double() @ b.double(), more.double() @ other.double(), bias.double()]
            exact = sum(terms, torch.zeros(outputs))
            # Half a unit in the last of eight places, and the rounding of sums in float32. Without tiles torch rounds
            # after each of the two products, when the sum may be as large as both and the bias together.
            rounded = exact.abs() if NATIVE.has_tiles else 2 * sum(abs(term) for term in terms)
            assert ((found.double() - exact).abs() <= (rounded + 1e-3) * 2**-8 + 2e-6 * inputs).all()


def test_a_product_is_the_same_with_any_number_of_threads() -> None:
    a, b = torch.randn(300, 200).bfloat16(), torch.randn(200, 600).bfloat16()
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        results.append(NATIVE.multiply([(a, b)]))
    torch.set_num_threads(threads)
    if NATIVE.has_tiles:
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_other_dtypes_and_widths_are_computed_by_torch() -> None:
    x, weight = torch.randn(3, 30, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    assert torch.equal(NATIVE.rms_norm(x, weight, 1e-5, 0.0), PLAIN.rms_norm(x, weight, 1e-5, 0.0))
    assert torch.equal(NATIVE.multiply([(x, x.T)]), x @ x.T)
    assert NATIVE.multiply([(x[:0], x.T)]).shape == (0, 3)


def test_what_fits_is_not_computed_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, label = torch.randn(6, 2, 32).bfloat16(), torch.randn(32).bfloat16(), torch.zeros(6, dtype=torch.long)
    angles, flat = x[:, :1], x[:, 0].contiguous()
    calls: dict[str, tuple[Any, ...]] = {
        "rms_norm": (x, weight, 1e-5, 0.0),
        "normalize": (x, weight, 1e-5, 0.0),
        "normalize_backward": (x, x, weight, torch.ones(6, 2, 1), 0.0, True),
        "rotate": (x, angles, angles),
        "rotate_backward": (x, angles, angles),
        "gated_product": (flat, flat, "silu"),
        "gated_product_backward": (flat, flat, flat, "silu"),
    }
    if NATIVE.has_tiles:
        calls["multiply"] = ([(flat, flat.T)],)
    for name, arguments in calls.items():
        monkeypatch.setattr(Arithmetic, name, None)
        getattr(NATIVE, name)(*arguments)
    monkeypatch.setattr(Arithmetic, "log_probabilities", None)
    NATIVE.log_probabilities(flat, label, LogitOptions(), with_gradient=True)


def test_a_network_computes_with_it_when_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Linear(2, 2)
    assert arithmetic_of(network) is PLAIN
    native.mark(network)
    assert arithmetic_of(network) is NATIVE
    monkeypatch.setenv(native.SWITCH, "0")
    assert arithmetic_of(network) is PLAIN
