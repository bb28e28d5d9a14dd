"""Prompt tuning: for which models, what it takes of a model, and how a report calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import bottega
from bottega import adapters
from bottega.adapters import InstallOptions, LinearLayer
from bottega.adapters.prompt import Prompt
from bottega.errors import ModelError
from making import make_model

OPTIONS = InstallOptions(peft_task="CAUSAL_LM")


def test_it_takes_positions_and_is_counted(llama: Path) -> None:
    chosen = Prompt(tokens=3)
    assert chosen.virtual_tokens == 3
    assert chosen.label == "prompt tuning with 3 tokens"
    adapted = chosen.install(AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32), OPTIONS)
    trained = [weight for weight in adapted.model.parameters() if weight.requires_grad]
    assert [tuple(weight.shape) for weight in trained] == [(3, 32)]
    assert chosen.count([LinearLayer("layers.0.self_attn.q_proj", 32, 32)]) == 96


@pytest.mark.parametrize("task", [None, "SEQ_CLS", "SEQ_2_SEQ_LM"])
def test_other_models_are_refused(task: str | None, llama: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(llama)
    with pytest.raises(ModelError, match="prompt tuning is for decoders"):
        Prompt().install(network, InstallOptions(peft_task=task))


def test_an_adapter_of_another_width_is_refused(llama: Path, tmp_path: Path) -> None:
    wide = AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "wide", hidden_size=64), dtype=torch.float32)
    (tmp_path / "saved").mkdir()
    Prompt(tokens=3).install(wide, OPTIONS).save(tmp_path / "saved")
    with pytest.raises(ModelError, match=r"shape \(3, 64\), and this model needs \(3, 32\)"):
        adapters.attach(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "saved")


def test_more_tokens_than_positions_are_refused(train: Callable[..., Path], tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "gpt2")
    with pytest.raises(ModelError, match="leave no room for a text") as caught:
        train(base, tmp_path / "run", adapter={"kind": "prompt", "tokens": 127})
    assert caught.value.where == "adapter.tokens"


def test_an_explanation_would_leave_it_out(llama: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    run = train(llama, tmp_path / "run", adapter={"kind": "prompt", "tokens": 2})
    with pytest.raises(ModelError, match="an explanation would leave out"):
        bottega.Explainer(run)
