"""Adapters of PEFT's on a model: which layers take one, which are left out, and that nothing is lost when loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PromptEncoderConfig, get_peft_model, get_peft_model_state_dict
from peft.utils import load_peft_weights
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from bottega import adapters
from bottega.adapters import InstallOptions
from bottega.adapters._peft_model import PeftAdaptedModel
from bottega.adapters.lora import Lora
from bottega.errors import ModelError
from bottega.models import heads
from bottega.models.small_copy import small_copies
from bottega.objectives import HeadKind


def small(kind: str, head: HeadKind = "language", **more: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **more)
    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if head == "language" else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    return next(small_copies(mapping[type(config)], config, 6, 23)).model


def adapted(model: Any, head: HeadKind = "language", targets: str | list[str] = "all-linear") -> Any:
    options = InstallOptions((), head != "language", heads.load(head).peft_task)
    return Lora(rank=2, targets=targets).install(model, options).model


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", []),
        ("mamba", ["out_proj"]),
        ("llama4_text", ["router"]),
        ("phimoe", ["router"]),
        ("deepseek_v4", ["o_a_proj"]),
        ("laguna", ["shared_experts.down_proj", "shared_experts.gate_proj", "shared_experts.up_proj"]),
    ],
)
def test_what_cannot_be_adapted_is_left_out_by_name(kind: str, names: list[str], tmp_path: Path) -> None:
    model = adapted(small(kind))
    assert PeftAdaptedModel(model).left_out == names
    model(input_ids=torch.arange(2, 20)[None], use_cache=False).logits.pow(2).sum().backward()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_()
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = PeftModel.from_pretrained(small(kind), tmp_path, autocast_adapter_dtype=False)
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    found = get_peft_model_state_dict(again, save_embedding_layers=False)
    assert set(found) == set(wanted) == set(load_peft_weights(str(tmp_path)))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_targets_whose_adapters_would_be_lost_are_refused() -> None:
    with pytest.raises(ModelError, match="would not be found again"):
        adapted(small("laguna"), targets=["q_proj", "up_proj"])


def test_leaving_layers_out_gives_the_weights_of_naming_the_others() -> None:
    """The second attempt begins where the first did: the same chances, no adapter within an adapter."""
    one, other = small("mamba"), small("mamba")
    torch.manual_seed(5)
    tried = adapted(one)
    torch.manual_seed(5)
    wanted = adapted(other, targets=["dt_proj", "in_proj", "x_proj"])
    for (name, a), (_, b) in zip(tried.named_parameters(), wanted.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
def test_a_trained_head_is_trained_whole(kind: str) -> None:
    """PEFT takes `pre_classifier` for a classifier, as its name ends in one's."""
    model = adapted(small(kind, "class"), "class")
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad and "classifier" in name]
    assert trained
    assert not any("lora_" in name for name in trained)
    assert PeftAdaptedModel(model).left_out == []


def test_an_expert_without_tokens() -> None:
    """xmod computes each language by itself, and some have none in a batch."""
    from bottega.models.kernels import apply_kernels

    layer = torch.nn.ModuleDict({"one": torch.nn.Linear(6, 4)})
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(layer, LoraConfig(r=2, target_modules=["one"]), autocast_adapter_dtype=False)
    apply_kernels(wrapped, ())
    assert wrapped.base_model.model.one(torch.zeros(0, 3, 6)).shape == (0, 3, 4)


def test_a_head_computed_by_itself_may_have_an_adapter() -> None:
    """ALBERT makes its vector by a linear layer and an activation, and a LoRA stands on that layer."""
    from bottega.models.own_head import own_head_logits

    model = adapted(small("albert", "class"), "class").eval()
    ids = torch.arange(2, 20)
    with torch.no_grad():
        states = model.get_base_model().base_model(input_ids=ids[None]).last_hidden_state[0]
        wanted = model(input_ids=ids[None]).logits[0]
        torch.testing.assert_close(own_head_logits(model.get_base_model(), states, ids), wanted)


@pytest.mark.parametrize(
    ("targets", "what", "fix"),
    [
        (["q_prj"], "no module is called q_prj", r"did you mean q_proj\?; all-linear fits any model"),
        ("q_proj", "a single text is a pattern of whole names", r"write a list: \[q_proj\]"),
    ],
)
def test_targets_that_are_misspelt(targets: str | list[str], what: str, fix: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        adapted(small("llama"), targets=targets)
    assert re.search(fix, caught.value.fix or "")


def test_tokens_before_a_text_are_refused_instead_of_left_out(llama: Path, tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(llama)
    config = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(network, config).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match="P_TUNING are not computed here"):
        adapters.attach(AutoModelForCausalLM.from_pretrained(llama), tmp_path)


@pytest.mark.parametrize("reference", [False, True])
def test_what_is_frozen_stays_so_when_it_was_switched_off(reference: bool, llama: Path, tmp_path: Path) -> None:
    options = InstallOptions(peft_task="CAUSAL_LM")
    Lora(rank=2).install(AutoModelForCausalLM.from_pretrained(llama), options).save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(llama)
    policy = adapters.attach(model, tmp_path, trainable=True, reference=reference)
    for name, weight in policy.model.named_parameters():
        if ".layers.0." in name:
            weight.requires_grad_(False)
    wanted = {name for name, weight in policy.model.named_parameters() if weight.requires_grad}
    assert wanted
    with policy.disabled():
        policy.network(input_ids=torch.arange(3, 9)[None])
    assert {name for name, weight in policy.model.named_parameters() if weight.requires_grad} == wanted
