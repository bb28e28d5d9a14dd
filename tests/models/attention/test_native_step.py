"""The attention in C++, and with it whole decoder layers: rows among others get the scores of plain PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from test_kv_cache import KINDS, close, of_whole_rows
from test_row_cache import Row, Rows, play

from bottega.models import native
from bottega.models.attention.native_step import NativeStepLayout, make_step_layout
from bottega.models.attention.row_cache import StepLayout
from bottega.models.kernels.decoder_layer import _NativeLayer
from bottega.models.scorer_setup import fit_model
from making import sharpen, tiny_config

# Widths that the operators compute.
SIZES = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 96}

# Rounding sends their tokens to other experts.
MIXTURES = ("mixtral", "gpt_oss")

# Those that are computed a layer at a time.
WHOLE_LAYERS = {"llama", "qwen3", "mistral"}

pytestmark = pytest.mark.skipif(native.operators() is None, reason="the operators in C++ are not built")


def networks(kind: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """(the network in C++, the same weights in float32 in PyTorch)."""
    torch.manual_seed(0)
    sizes = {**SIZES, "head_dim": 32} if kind != "gpt2" else SIZES
    model = sharpen(transformers.AutoModelForCausalLM.from_config(tiny_config(kind, **sizes))).to(dtype).eval()
    reference = copy.deepcopy(model).float()
    fast, plain = fit_model(model, "language", native=True, weight_bits=16), fit_model(reference, "language")
    assert fast.fit.packed, fast.fit.reason
    return fast.network, plain.network


class Fallback(Exception):
    """The attention of PyTorch was called."""


@pytest.fixture(autouse=True)
def only_native(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise Fallback

    monkeypatch.setattr(StepLayout, "_decode", fail)
    monkeypatch.setattr("bottega.models.attention.row_cache._read", fail)


def is_about(share: float) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Equal but for the rounding of a narrow dtype: the root of the mean square of the difference is a small share."""

    def compare(one: torch.Tensor, other: torch.Tensor) -> None:
        assert (one.float() - other).square().mean().sqrt() <= share * other.square().mean().sqrt()

    return compare


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scores_are_those_of_whole_rows(kind: str) -> None:
    fast, plain = networks(kind, torch.float32)
    play(Rows(fast, plain, NativeStepLayout, close))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in MIXTURES])
@torch.no_grad()
def test_bfloat16_is_as_near_as_in_pytorch(kind: str) -> None:
    fast, plain = networks(kind, torch.bfloat16)
    whole_layers = [isinstance(module.forward, _NativeLayer) for module in fast.modules()]
    assert any(whole_layers) == (kind in WHOLE_LAYERS)
    rows = [[5, 9, 200, 31, 7, 64], [8] * 40]
    exact = of_whole_rows(plain, rows)
    usual = of_whole_rows(copy.deepcopy(plain).bfloat16(), rows).float()
    share = float(((usual - exact).square().mean() / exact.square().mean()).sqrt())
    play(Rows(fast, plain, NativeStepLayout, is_about(3 * share)))
    if kind in WHOLE_LAYERS:
        first, second = (layer.forward for layer in fast.model.layers)
        assert (first.next, second.next) == (second, None)  # both are one call


@torch.no_grad()
def test_a_row_among_others_gets_the_bits_that_it_gets_alone() -> None:
    fast, _ = networks("llama", torch.bfloat16)

    def logits(rows: list[list[int]]) -> torch.Tensor:
        """Of the last of each row, after reading all but that."""
        found: list[torch.Tensor] = []
        game = Rows(fast, layout=NativeStepLayout, compare=lambda one, _: found.append(one))
        for ids in rows:
            game.add(Row(ids, len(ids) - 1))
        game.step(1000)
        game.step(1000)
        return found[-1]

    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(5, 250, (length,), generator=draw).tolist() for length in (3, 70, 9, 9, 33, 100, 2)]
    together = logits(rows)
    order = sorted(range(len(rows)), key=lambda index: max(64, 1 << (len(rows[index]) - 2).bit_length()))
    for place, index in enumerate(order):
        assert torch.equal(together[place], logits([rows[index]])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@torch.no_grad()
def test_what_is_no_number_stays_none(dtype: torch.dtype, wrong: float) -> None:
    """In the answers of the row itself, and in no other."""
    fast, _ = networks("llama", dtype)
    found: list[torch.Tensor] = []
    rows = Rows(fast, layout=NativeStepLayout, compare=lambda one, _: found.append(one))
    for ids in ([5, 9, 31, 7], [6, 8, 30, 9]):
        rows.add(Row(ids, 3))
    rows.step(9)
    (bank,) = rows.cache.banks
    bank.tensors[0][0, 1] = wrong  # the first key of the second row
    rows.step(9)
    assert found[-1][0].isfinite().all()
    assert not found[-1][1].isfinite().any()


@torch.no_grad()
def test_what_comes_between_layers_is_noticed() -> None:
    fast, _ = networks("llama", torch.bfloat16)
    rows = Rows(fast, layout=NativeStepLayout, compare=lambda *both: None)
    rows.add(Row([5, 9, 31, 7, 6], 3))
    rows.step(9)
    rows.step(9)
    fast.model.layers[1].register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    with pytest.raises(RuntimeError, match="got something else"):
        rows.step(9)


@torch.no_grad()
def test_an_adapter_that_is_put_on_later_counts() -> None:
    fast, plain = networks("llama", torch.bfloat16)
    config = LoraConfig(r=4, target_modules=["up_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    get_peft_model(fast, config, autocast_adapter_dtype=False)
    torch.manual_seed(1)
    get_peft_model(plain, config, autocast_adapter_dtype=False)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    rows = Rows(fast, plain, NativeStepLayout, lambda *both: found.append(both))
    rows.add(Row([5, 9, 31, 7], 3))
    rows.step(9)
    rows.step(9)
    for one, other in found:
        is_about(0.1)(one, other)


def test_the_layout_is_chosen_by_network_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that are trained are not computed in C++."""
    fast, plain = networks("llama", torch.float32)
    cache: Any = type("Empty", (), {"rows": []})()
    assert type(make_step_layout(fast, cache, [], [])) is NativeStepLayout
    assert type(make_step_layout(plain, cache, [], [])) is StepLayout
    monkeypatch.setenv(native.SWITCH, "0")
    assert type(make_step_layout(fast, cache, [], [])) is StepLayout
