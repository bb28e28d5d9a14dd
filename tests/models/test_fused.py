"""The fused LoRA layer against PEFT's own, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from bottega.models import fused
from bottega.models.fused import fuse


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


def play(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    out = model(x)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return [out, *torch.autograd.grad(out.pow(2).sum(), [x, *weights])]


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}])
@pytest.mark.parametrize("bias", [False, True])
def test_fused_is_peft(bias: bool, options: dict) -> None:
    options = options if bias or "lora_bias" not in options else {}
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    for one, other in zip(play(fuse(adapted(bias, **options)), x), play(adapted(bias, **options), x), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_fused_function_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = fused._LoraLinear.apply
    monkeypatch.setattr(fused._LoraLinear, "apply", lambda *arguments: calls.append(1) or whole(*arguments))
    fuse(adapted())(torch.randn(2, 9, 6, dtype=torch.float64))
    assert len(calls) == 2


def test_switched_off_it_is_the_base() -> None:
    model, x = fuse(adapted()), torch.randn(4, 6, dtype=torch.float64)
    torch.manual_seed(0)
    base = Net(False).double()
    with model.disable_adapter():
        torch.testing.assert_close(model(x), base(x))
    assert not torch.allclose(model(x), base(x))


def test_dropout_and_a_second_adapter_keep_pefts_own() -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    models = [fuse(adapted(lora_dropout=0.5)), adapted(lora_dropout=0.5)]
    outs = []
    for model in models:
        torch.manual_seed(1)
        outs.append(model.train()(x))
    assert torch.equal(*outs)
    model = fuse(adapted())
    torch.manual_seed(5)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["one"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "other"])
    plain = adapted()
    torch.manual_seed(5)
    plain.add_adapter("other", LoraConfig(r=2, target_modules=["one"], init_lora_weights=False))
    plain.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(model(x), plain(x))
