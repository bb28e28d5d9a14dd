"""The fused parts of a model against their own forwards, values and gradients."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModel

from bottega.models.attention import ATTENTION_NAME, register_attention
from bottega.models.fast_dropout import dropout
from bottega.models.kernels import (
    apply_kernels,
    attention,
    decoder_layer,
    encoder_layer,
    gated_mlp,
    lora_linear,
    prove_kernels,
    rms_norm,
)
from bottega.models.kernels import dropout as dropout_kernel
from bottega.models.kernels.attention import single_row_layout
from making import tiny_config


class Net(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8, bias=bias), nn.Linear(8, 5, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x).tanh())


def adapted(bias: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=7, target_modules=["one", "two"], init_lora_weights=False, **options)
    return get_peft_model(Net(bias).double(), config, autocast_adapter_dtype=False)


def lora(model: Any) -> Any:
    apply_kernels(model, ())
    return model


def play(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    out = model(x)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return [out, *torch.autograd.grad(out.pow(2).sum(), [x, *weights])]


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}])
@pytest.mark.parametrize("bias", [False, True])
def test_the_fused_lora_equals_that_of_peft(bias: bool, options: dict) -> None:
    options = options if bias or "lora_bias" not in options else {}
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    for one, other in zip(play(lora(adapted(bias, **options)), x), play(adapted(bias, **options), x), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_fused_function_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = lora_linear._FusedLinears.apply
    monkeypatch.setattr(lora_linear._FusedLinears, "apply", lambda *arguments: calls.append(1) or whole(*arguments))
    lora(adapted())(torch.randn(2, 9, 6, dtype=torch.float64))
    assert len(calls) == 2


def test_a_disabled_adapter_gives_the_base() -> None:
    model, x = lora(adapted()), torch.randn(4, 6, dtype=torch.float64)
    torch.manual_seed(0)
    base = Net(False).double()
    with model.disable_adapter():
        torch.testing.assert_close(model(x), base(x))
    assert not torch.allclose(model(x), base(x))


def test_peft_computes_dropout_and_a_second_adapter() -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    models = [lora(adapted(lora_dropout=0.5)), adapted(lora_dropout=0.5)]
    outs = []
    for model in models:
        torch.manual_seed(1)
        outs.append(model.train()(x))
    assert torch.equal(*outs)
    model = lora(adapted())
    torch.manual_seed(5)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["one"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "other"])
    plain = adapted()
    torch.manual_seed(5)
    plain.add_adapter("other", LoraConfig(r=2, target_modules=["one"], init_lora_weights=False))
    plain.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(model(x), plain(x))


class Rms(nn.Module):
    """With a weight that is added to `offset`, which is 1 in Gemma."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.eps, self.offset = nn.Parameter(torch.randn(6)), 1e-5, offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (self.weight + self.offset)


class Centred(Rms):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(-1, keepdim=True))


class Gated(nn.Module):
    def __init__(self, act: nn.Module, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(6, 11, bias=bias), nn.Linear(6, 11, bias=bias)
        self.down_proj, self.act_fn = nn.Linear(11, 6, bias=bias), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Swapped(Gated):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))


ACTS = [nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh")]
PLAIN = [Rms(), Rms(1.0), *(Gated(act, bias) for act in ACTS for bias in (True, False))]


@pytest.mark.parametrize("module", PLAIN, ids=repr)
def test_a_kernel_equals_its_module(module: nn.Module) -> None:
    module, x = module.double(), torch.randn(2, 9, 6, dtype=torch.float64)
    own = play(module, x)
    apply_kernels(module, [type(module).__name__])
    assert "forward" in vars(module)
    for one, other in zip(play(module, x), own, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_a_kernel_with_other_results_is_not_used() -> None:
    model = nn.ModuleList([*PLAIN, Centred(), Swapped(nn.SiLU()), Gated(nn.ReLU()), nn.LayerNorm(6), nn.Linear(6, 6)])
    assert prove_kernels(model.float()) == ("Gated", "Rms")


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_gated_mlp_with_lora(dropout: float) -> None:
    """Also where a LoRA has dropout, and the layer keeps its own forward."""
    models = []
    for names in ((), ("Gated",)):
        torch.manual_seed(0)
        module = nn.ModuleDict({"mlp": Gated(nn.SiLU(), bias=True)}).double()
        apply_kernels(module, names)
        config = LoraConfig(
            r=3, target_modules=["gate_proj", "down_proj"], init_lora_weights=False, lora_dropout=dropout
        )
        models.append(lora(get_peft_model(module, config, autocast_adapter_dtype=False)).train())
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    plays = []
    for model in models:
        torch.manual_seed(1)
        layer = model.base_model.model["mlp"]
        x = x.clone().requires_grad_()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        out = layer(x)
        plays.append([out, *torch.autograd.grad(out.pow(2).sum(), [x, *weights])])
    for one, other in zip(*plays, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_dropout_in_evaluation_and_at_rates_of_0_and_1() -> None:
    module, x = nn.Dropout(0.5), torch.randn(7, 6)
    assert prove_kernels(module) == ("Dropout",)
    apply_kernels(module, ["Dropout"])
    assert torch.equal(module.eval()(x), x)
    assert 0 < (module.train()(x) == 0).sum() < x.numel()
    assert torch.equal(dropout(x, 0.0), x)
    assert not dropout(x, 1.0).any()


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_a_last_layer_is_computed_at_the_positions_read(kind: str) -> None:
    """Values there and all gradients equal those of the whole layer; other positions are not computed."""
    torch.manual_seed(0)
    size = {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 20, "num_hidden_layers": 2}
    config = AutoConfig.for_model(kind, vocab_size=30, embedding_size=12, **size)
    model = AutoModel.from_config(config).double().eval()
    register_attention()
    model.set_attn_implementation(ATTENTION_NAME)
    layout, read = single_row_layout(9), torch.tensor([6, 0, 3])
    call = {"input_ids": torch.arange(9)[None] + 4, "layout": layout}

    def played(**given: Any) -> list[torch.Tensor]:
        out = model(**call, **given).last_hidden_state[0]
        gradients = torch.autograd.grad(out[read].sin().sum(), list(model.parameters()), allow_unused=True)
        return [out, *(torch.zeros(1) if one is None else one for one in gradients)]

    whole, *gradients = played(read=read)
    apply_kernels(model, [type(model.encoder.layer[0]).__name__])
    few, *others = played(read=read)
    torch.testing.assert_close(few[read], whole[read], rtol=0, atol=1e-12)
    assert not few[[1, 2, 4, 5, 7, 8]].any()
    for one, other in zip(others, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    everything, *_ = played()
    torch.testing.assert_close(everything, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("read", [None, [6, 0, 3]])
def test_an_encoder_layer_in_training(read: list[int] | None) -> None:
    """With the same dropout, values and gradients are those of the modules; in the attention, too."""
    model = AutoModel.from_config(tiny_config("bert")).double().train()
    register_attention()
    model.set_attn_implementation(ATTENTION_NAME)
    layer, x = model.encoder.layer[0], torch.randn(1, 9, 32, dtype=torch.float64, requires_grad=True)
    call = {"layout": single_row_layout(9)} | ({} if read is None else {"read": torch.tensor(read)})
    plays = []
    for names in (["Dropout"], ["Dropout", "BertLayer"]):
        apply_kernels(layer, names)
        torch.manual_seed(1)
        out = layer(x, **call)
        out = out if read is None else out[:, read]
        plays.append([out, *torch.autograd.grad(out.sin().sum(), [x, *layer.parameters()])])
    if read is None:
        for one, other in zip(*plays, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    else:
        # The modules drop other numbers, as they compute all positions.
        assert not torch.equal(plays[0][0], plays[1][0])
        assert plays[1][0].isfinite().all()


def test_an_encoder_layer_whose_parts_are_others() -> None:
    """An activation that is not known, an adapter with dropout: these parts are computed by their own modules."""
    config = tiny_config("bert")
    config.hidden_act = "relu"
    model = AutoModel.from_config(config).double()
    adapter = LoraConfig(r=2, target_modules=["query", "dense"], lora_dropout=0.5, init_lora_weights=False)
    model = get_peft_model(model, adapter, autocast_adapter_dtype=False)
    register_attention()
    model.base_model.model.set_attn_implementation(ATTENTION_NAME)
    x, call = torch.randn(1, 9, 32, dtype=torch.float64), {"layout": single_row_layout(9)}
    layer = model.base_model.model.encoder.layer[1]
    outs = []
    for names in (["Dropout"], ["Dropout", "BertLayer"]):
        apply_kernels(layer, names)
        torch.manual_seed(1)
        outs.append(layer.train()(x, **call))
    torch.testing.assert_close(*outs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "is_fused"), [("llama", True), ("qwen3", True), ("granite", False), ("olmo2", False)])
def test_a_decoder_layer_is_its_parts(kind: str, is_fused: bool) -> None:
    """Granite multiplies what is added, and OLMo 2 normalizes it."""
    model = AutoModel.from_config(tiny_config(kind)).eval()
    names = prove_kernels(model)
    assert any(name.endswith("DecoderLayer") for name in names) == is_fused
    x, keywords = attention.sample_call(model.layers[0].self_attn, 9)
    keywords["layout"] = single_row_layout(9)
    register_attention()
    model.set_attn_implementation(ATTENTION_NAME)
    own = model.layers[0](x, **keywords)
    apply_kernels(model, names)
    torch.testing.assert_close(model.layers[0](x, **keywords), own, rtol=0, atol=1e-5)


def test_unlisted_classes_keep_their_forward() -> None:
    module = Gated(nn.SiLU())
    apply_kernels(module, ["Rms"])
    assert "forward" not in vars(module)


def modules() -> dict[ModuleType, nn.Module]:
    llama, bert = (AutoModel.from_config(tiny_config(kind)) for kind in ("llama", "bert"))
    return {
        attention: llama.layers[0].self_attn,
        decoder_layer: llama.layers[0],
        dropout_kernel: nn.Dropout(0.5),
        encoder_layer: bert.encoder.layer[1],
        gated_mlp: llama.layers[0].mlp,
        rms_norm: llama.norm,
        lora_linear: adapted().base_model.model.one,
    }


def test_each_kernel_matches_its_own_modules_alone() -> None:
    found = modules()
    for kernel in found:
        assert [other for other, module in found.items() if kernel.matches(module)] == [kernel]


def test_a_sample_call_matches_the_signature_of_the_module() -> None:
    for kernel, module in modules().items():
        if kernel not in (lora_linear, attention, decoder_layer):
            x, keywords = kernel.sample_call(module.eval(), 9)
            assert x.shape[1] == 9
            assert module(x, **keywords) is not None
