"""Packed layers: their products, gradients and adapters are those of the layer they were made from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bottega.models import native
from bottega.models.kernels.lora_linear import apply_linears, linear_tensors
from bottega.models.low_rank import LowRankUpdate
from bottega.models.native.packed_linear import PackedLinear, pack_model
from bottega.models.row_adapters import RowAdapters

pytestmark = pytest.mark.skipif(native.operators() is None, reason="the operators in C++ are not built")


def layer_of(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias, dtype=torch.bfloat16)


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 32, 33, 100, 600])
@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(32, 32, False), (96, 50, True), (64, 257, True)])
@torch.no_grad()
def test_products_are_rounded_once(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    layer, x = layer_of(inputs, outputs, bias), torch.randn(rows, inputs, dtype=torch.bfloat16)
    packed = PackedLinear(layer)
    exact = nn.functional.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
    found = packed(x)
    assert found.dtype == torch.bfloat16
    # Half a unit in the last of eight places, and the rounding of the sum in float32.
    assert ((found.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-5).all()
    wide = torch.ops.bottega.linear(x.float(), packed.handle)
    assert ((wide.double() - exact).abs() <= 1e-5).all()


@torch.no_grad()
def test_a_row_gets_the_same_bits_alone_and_among_others() -> None:
    packed, x = PackedLinear(layer_of(96, 70)), torch.randn(600, 96, dtype=torch.bfloat16)
    together = packed(x)
    for row in (0, 15, 31, 40, 599):
        assert torch.equal(packed(x[row : row + 1])[0], together[row])
    assert torch.equal(packed(x[100:133]), together[100:133])


@torch.no_grad()
def test_inputs_that_do_not_lie_side_by_side() -> None:
    packed, x = PackedLinear(layer_of(64, 40)), torch.randn(64, 5, dtype=torch.bfloat16).T
    assert torch.equal(packed(x), packed(x.contiguous()))
    assert packed(torch.zeros(0, 64, dtype=torch.bfloat16)).shape == (0, 40)


def test_the_weight_comes_back() -> None:
    layer = layer_of(64, 45)
    packed = PackedLinear(layer)
    assert torch.equal(packed.weight, layer.weight)
    assert packed.bytes == 2 * 64 * 64  # outputs are rounded up to 32


def test_gradients_pass_through() -> None:
    layer, x = layer_of(64, 45), torch.randn(3, 4, 64, dtype=torch.bfloat16, requires_grad=True)
    (own,) = torch.autograd.grad(layer(x).float().square().sum(), x)
    (found,) = torch.autograd.grad(PackedLinear(layer)(x).float().square().sum(), x)
    torch.testing.assert_close(found, own, rtol=0.05, atol=0.05)


@torch.no_grad()
def test_eight_bits_are_the_nearest_of_255_steps() -> None:
    layer = layer_of(64, 45, bias=False)
    eight = torch.classes.bottega.PackedLinear(layer.weight, None, True)
    step = layer.weight.float().abs().amax(1, keepdim=True) / 127
    assert ((eight.weight().float() - layer.weight.float()).abs() <= 0.51 * step + 2**-8 * layer.weight.abs()).all()
    x = torch.randn(20, 64)
    for given in (x, x.bfloat16()):
        expected = given.double() @ (layer.weight.float() / step).round().mul(step).double().T
        found = torch.ops.bottega.linear(given, eight.handle())
        assert (found.double() - expected).abs().max() <= 0.01 * expected.abs().max()


class Model(nn.Module):
    dtype, device = torch.bfloat16, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 64, dtype=torch.bfloat16)
        self.body = nn.ModuleDict({"a": layer_of(64, 96), "odd": layer_of(96, 30), "last": layer_of(30, 64)})
        self.head = nn.Linear(64, 40, bias=False, dtype=torch.bfloat16)
        self.head.weight = self.embed.weight

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


@torch.no_grad()
def test_a_model_is_packed_where_it_fits() -> None:
    model, plain = Model(), Model()
    plain.load_state_dict(model.state_dict())
    pack_model(model)
    assert [type(layer) for layer in model.body.values()] == [PackedLinear, PackedLinear, nn.Linear]
    assert model.head.weight is model.embed.weight  # heads read it
    x = torch.randn(7, 64, dtype=torch.bfloat16)
    torch.testing.assert_close(model.head(x), plain.head(x), rtol=0.02, atol=0.02)
    torch.testing.assert_close(model.body["a"](x[None]), plain.body["a"](x[None]), rtol=0.02, atol=0.02)
    wide = Model().float()
    pack_model(wide)
    assert not any(isinstance(module, PackedLinear) for module in wide.modules())


@torch.no_grad()
def test_adapters_of_rows_on_packed_layers() -> None:
    model = Model()
    plain = layer_of(64, 96)
    pack_model(model)
    adapters, x = RowAdapters(model), torch.randn(4, 64, dtype=torch.bfloat16)
    a, b = torch.randn(3, 64), torch.randn(96, 3)
    adapters.add("one", {"body.a": LowRankUpdate(a.numpy(), b.numpy(), transposed=False)})
    adapters.use([None, "one", None, "one"])
    (found,) = apply_linears([linear_tensors(model.body["a"], x)], x)
    exact = plain.double()(x.double())
    exact[1::2] += x[1::2].double() @ a.double().T @ b.double().T
    assert (found.double() - exact).abs().max() <= 0.02 * exact.abs().max()
