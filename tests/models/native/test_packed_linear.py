"""Packed layers: their products, gradients and adapters are those of the layer they were made from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from bottega.batch import Example, Row
from bottega.errors import ModelError
from bottega.models import native
from bottega.models.kernels.lora_linear import apply_linears, linear_tensors
from bottega.models.native.packed_linear import PackedLinear, pack_model
from bottega.models.row_adapters import RowAdapters, RowMatrices
from bottega.models.scorer_setup import load_scorer
from bottega.packing import pack
from making import make_model

pytestmark = pytest.mark.skipif(native.operators() is None, reason="the operators in C++ are not built")


def layer_of(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias, dtype=torch.bfloat16)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 15, 16, 17, 32, 33, 100, 600])
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


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 16, 33, 600])
@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(96, 50, True), (64, 257, False)])
@torch.no_grad()
def test_weights_in_8_bits(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    """Products with the rounded weights, whose inputs are rounded to 65,279 numbers of a row where tiles multiply."""
    layer, x = layer_of(inputs, outputs, bias), torch.randn(rows, inputs, dtype=torch.bfloat16)
    layer.weight[3] = 0
    packed = PackedLinear(layer, bits=8)
    scale = (layer.weight.float().abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    rounded = (layer.weight.float() / scale).round() * scale
    torch.testing.assert_close(packed.weight, rounded.bfloat16())
    assert (rounded - layer.weight).abs().max() <= scale.max() / 2 * 1.0001
    exact = nn.functional.linear(x.double(), rounded.double(), layer.bias.double() if bias else None)
    step = x.double().abs().amax(1, keepdim=True) / 32_639
    bound = exact.abs() * 2**-8 + step / 2 * rounded.double().abs().sum(1) + 1e-5
    assert ((packed(x).double() - exact).abs() <= bound).all()
    wide = torch.ops.bottega.linear(x.float(), packed.handle)
    assert ((wide.double() - exact).abs() <= 1e-5).all()
    assert packed.bytes == (-(-inputs // 64) * 64 + 4) * -(-outputs // 32) * 32


@torch.no_grad()
def test_inputs_that_are_large_zero_or_no_number_in_8_bits() -> None:
    layer = layer_of(64, 32, bias=False)
    packed, x = PackedLinear(layer, bits=8), torch.randn(6, 64, dtype=torch.bfloat16)
    x[1], x[2, 5], x[3, 7], x[4, 3] = 0, torch.inf, torch.nan, 1e30
    found = packed(x)
    assert not found[1].any()
    assert not found[2:4].isfinite().any()
    assert found[[0, 4, 5]].isfinite().all()
    torch.testing.assert_close(found[4].float(), 1e30 * packed.weight[:, 3].float(), rtol=0.02, atol=1e26)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bits", [16, 8])
@torch.no_grad()
def test_a_row_gets_the_same_bits_alone_and_among_others(bits: int, dtype: torch.dtype) -> None:
    packed, x = PackedLinear(layer_of(96, 70).to(dtype), bits), torch.randn(600, 96, dtype=dtype)
    together = packed(x)
    for row in (0, 15, 31, 40, 599):
        assert torch.equal(packed(x[row : row + 1])[0], together[row])
    for count in (*range(2, 14), 33):
        assert torch.equal(packed(x[100 : 100 + count]), together[100 : 100 + count])


@torch.no_grad()
def test_inputs_that_do_not_lie_side_by_side() -> None:
    packed, x = PackedLinear(layer_of(64, 40)), torch.randn(64, 5, dtype=torch.bfloat16).T
    assert torch.equal(packed(x), packed(x.contiguous()))
    assert packed(torch.zeros(0, 64, dtype=torch.bfloat16)).shape == (0, 40)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_weight_comes_back(dtype: torch.dtype) -> None:
    layer = layer_of(64, 45).to(dtype)
    packed = PackedLinear(layer)
    assert packed.weight.dtype == dtype
    assert torch.equal(packed.weight, layer.weight)
    assert packed.bytes == 2 * 64 * 64  # outputs are rounded up to 32


def test_gradients_pass_through() -> None:
    layer, x = layer_of(64, 45), torch.randn(3, 4, 64, dtype=torch.bfloat16, requires_grad=True)
    (own,) = torch.autograd.grad(layer(x).float().square().sum(), x)
    (found,) = torch.autograd.grad(PackedLinear(layer)(x).float().square().sum(), x)
    torch.testing.assert_close(found, own, rtol=0.05, atol=0.05)


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


@pytest.mark.parametrize("more", [0.0, 1.0 / 2**20])
@torch.no_grad()
def test_a_model_in_float32_is_packed_where_nothing_is_rounded(more: float) -> None:
    model, plain = Model().float(), Model().float()
    for layer in (model.body["a"], model.body["odd"]):
        layer.weight[0, 0] = 1 + more
    plain.load_state_dict(model.state_dict())
    pack_model(model)
    assert [type(layer) is PackedLinear for layer in model.body.values()] == [not more, not more, False]
    x = torch.randn(7, 64)
    torch.testing.assert_close(model.head(x), plain.head(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.body["a"](x[None]), plain.body["a"](x[None]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_adapters_of_rows_on_packed_layers() -> None:
    model = Model()
    plain = layer_of(64, 96)
    pack_model(model)
    adapters, x = RowAdapters(model), torch.randn(4, 64, dtype=torch.bfloat16)
    a, b = torch.randn(3, 64), torch.randn(96, 3)
    adapters.put("one", {"body.a": RowMatrices(a.bfloat16(), b.bfloat16())})
    adapters.use([None, "one", None, "one"])
    (found,) = apply_linears([linear_tensors(model.body["a"], x)], x)
    exact = plain.double()(x.double())
    exact[1::2] += x[1::2].double() @ a.double().T @ b.double().T
    assert (found.double() - exact).abs().max() <= 0.02 * exact.abs().max()


def opened(folder: Path) -> Any:
    return load_scorer(str(folder), "bfloat16", "cpu", native=True)


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "wide", hidden_size=128, head_dim=32, intermediate_size=96)


@pytest.fixture(scope="module")
def lora_folder(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    config = LoraConfig(r=32, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    get_peft_model(base, config).save_pretrained(str(folder))
    return folder


def test_a_saved_model_is_whole(llama_folder: Path, tmp_path: Path) -> None:
    scorer = opened(llama_folder)
    assert any(isinstance(module, PackedLinear) for module in scorer.network.modules())
    scorer.save(tmp_path / "saved")
    own, saved = (load_file(folder / "model.safetensors") for folder in (llama_folder, tmp_path / "saved"))
    assert own.keys() == saved.keys()
    assert all(torch.equal(own[name].bfloat16(), saved[name]) for name in own)


def test_a_model_opened_in_8_bits(llama_folder: Path, tmp_path: Path) -> None:
    """It answers nearly as the whole one, and is not saved as if it were that."""
    tokens = torch.arange(40) % 50
    batch = pack([Example("1", (Row(tokens.numpy(), np.arange(39), tokens[1:].numpy(), np.ones(39, np.float32)),))])
    whole, rounded = (load_scorer(str(llama_folder), dtype, "cpu", native=True) for dtype in ("bfloat16", "int8"))
    layers = [module for module in rounded.network.modules() if isinstance(module, PackedLinear)]
    assert layers
    assert {layer.bits for layer in layers} == {8}
    with torch.no_grad():
        one, other = (scorer(batch, frozenset({"logp"}))["logp"] for scorer in (whole, rounded))
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=0, atol=0.2)
    with pytest.raises(ModelError, match="rounded to 8 bits"):
        rounded.save(tmp_path / "saved")


def test_8_bits_need_the_operators(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "0")
    with pytest.raises(ModelError, match="no weights in 8 bits of llama on cpu"):
        load_scorer(str(llama_folder), "int8", "cpu", native=True)


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "t5"])
def test_a_model_whose_weights_do_not_fit_8_bits_is_refused(kind: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / kind, kind)
    with pytest.raises(ModelError, match=f"no weights in 8 bits of {kind}"):
        load_scorer(str(folder), "int8", "cpu", native=True)


def test_what_an_adapter_trained_stays_and_is_saved(lora_folder: Path, tmp_path: Path) -> None:
    scorer = opened(lora_folder)
    packed = [name for name, module in scorer.model.named_modules() if isinstance(module, PackedLinear)]
    assert packed
    assert all(name.endswith("base_layer") for name in packed)
    scorer.save(tmp_path / "saved")
    own, saved = (load_file(folder / "adapter_model.safetensors") for folder in (lora_folder, tmp_path / "saved"))
    assert own.keys() == saved.keys()
    with pytest.raises(ModelError, match="packed"):
        scorer.adapted.merge()


@torch.no_grad()
def test_a_copy_shares_the_weights_and_computes_on_its_own(llama_folder: Path) -> None:
    network = opened(llama_folder).network
    copied = copy.deepcopy(network)
    assert copied.model.layers[0].mlp.gate_proj.handle == network.model.layers[0].mlp.gate_proj.handle
    x = torch.randn(3, 128, dtype=torch.bfloat16)
    before = network.model.layers[0].input_layernorm(x)
    copied.model.layers[0].input_layernorm.weight.zero_()
    assert not copied.model.layers[0].input_layernorm(x).any()
    assert torch.equal(network.model.layers[0].input_layernorm(x), before)


def test_it_is_not_moved_or_converted() -> None:
    packed = PackedLinear(layer_of(64, 45))
    assert packed.to(torch.bfloat16) is packed
    for change in (torch.float32, "meta"):
        with pytest.raises(ModelError, match="opened for this CPU"):
            packed.to(change)


@torch.no_grad()
def test_inputs_of_another_width_are_refused() -> None:
    packed = PackedLinear(layer_of(64, 45))
    assert packed(torch.zeros(64, dtype=torch.bfloat16)).shape == (45,)
    with pytest.raises(RuntimeError, match="64 inputs got 32"):
        torch.ops.bottega.linear(torch.zeros(2, 32), packed.handle)
