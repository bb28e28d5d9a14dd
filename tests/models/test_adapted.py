"""Adapters of checkpoints, attached to their base or merged into its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bottega.errors import ModelError
from bottega.models.adapted import attach_saved, merge_saved, weight_names
from making import make_model

CAUSAL = {"kind": "causal"}


@pytest.fixture
def adapter(llama: Path, tmp_path: Path) -> Path:
    """A LoRA adapter with random weights on the Llama checkpoint, as PEFT saves it."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(load(llama), config).save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def load(base: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()


@torch.no_grad()
def test_merging_keeps_the_logits(llama: Path, adapter: Path) -> None:
    ids = torch.arange(3, 20)[None]
    adapted = attach_saved(load(llama), adapter).network.eval()(ids).logits
    merged = merge_saved(load(llama), adapter, torch.float32)
    assert type(merged) is type(load(llama))
    torch.testing.assert_close(merged.eval()(ids).logits, adapted, rtol=1e-4, atol=1e-4)
    assert (adapted - load(llama)(ids).logits).abs().max() > 0.1
    assert all(weight.requires_grad for weight in merged.parameters())


def test_weights_are_merged_in_float32_and_rounded_once(llama: Path, adapter: Path) -> None:
    merged = merge_saved(load(llama, torch.bfloat16), adapter, torch.bfloat16)
    exact = merge_saved(load(llama, torch.bfloat16).float(), adapter, torch.float32)
    for (name, weight), (_, whole) in zip(merged.named_parameters(), exact.named_parameters(), strict=True):
        assert torch.equal(weight, whole.to(torch.bfloat16)), name


def test_an_attached_adapter_is_trained_only_if_asked(llama: Path, adapter: Path) -> None:
    for trainable in (True, False):
        model = attach_saved(load(llama), adapter, trainable=trainable).model
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert bool(trained) is trainable
        assert all("lora_" in name for name in trained)


def test_a_pickled_adapter_is_refused_before_it_is_read(llama: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        attach_saved(load(llama), adapter)


def test_weight_names_are_those_of_all_files(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    assert sorted(weight_names(adapter)) == sorted(weights)
    assert len(weights) == 8
    save_file({"more": torch.ones(1)}, adapter / "adapter_model-00002.safetensors")
    # A checkpoint has the state of its optimizer beside the weights.
    save_file({"state": torch.ones(1)}, adapter / "optimizer.safetensors")
    assert set(weight_names(adapter)) == {*weights, "more"}
    assert list(weight_names(adapter / "nothing")) == []


def losses_on(trained: Callable[..., Any], base: Path, out: Path, targets: Any) -> tuple[float, float]:
    """(the loss at the end of a run with an adapter, the loss with which a run from its result begins)"""
    texts = [{"text": "the cat sat on the red mat and ran"}, {"text": "it was a very happy blue dog"}]
    ended = trained(base, out / "first", texts, objective=CAUSAL, adapter={"rank": 4, "alpha": 16, "targets": targets})
    begun = trained(out / "first", out / "next", texts, objective=CAUSAL, optim={"steps": 1, "lr": 1e-9})
    return ended[-1]["loss"], begun[0]["loss"]


@pytest.mark.parametrize(
    ("kind", "targets"),
    [("llama", ["embed_tokens"]), ("llama", ["lm_head", "q_proj"]), ("gpt2", ["wte"])],
)
def test_an_adapter_on_tied_embeddings_is_merged_into_its_own_end(
    kind: str, targets: list[str], trained: Callable[..., Any], tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base", kind, tie_word_embeddings=True)
    ended, begun = losses_on(trained, base, tmp_path, targets)
    assert begun == pytest.approx(ended, abs=1e-5)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "next" / "model")
    assert saved.config.tie_word_embeddings is False
    assert not torch.equal(saved.get_output_embeddings().weight, saved.get_input_embeddings().weight)


def test_embeddings_stay_tied_where_no_adapter_changes_them(trained: Callable[..., Any], tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", tie_word_embeddings=True)
    ended, begun = losses_on(trained, base, tmp_path, "all-linear")
    assert begun == pytest.approx(ended, abs=1e-5)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "next" / "model").config.tie_word_embeddings


def test_merging_into_embeddings_shared_by_three_modules_is_refused(
    trained: Callable[..., Any], tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base", "t5", tie_word_embeddings=True)
    rows = {"objective": {"kind": "sft"}, "adapter": {"rank": 2, "targets": ["shared", "q"]}}
    trained(base, tmp_path / "first", **rows)
    with pytest.raises(ModelError, match="cannot be merged"):
        trained(tmp_path / "first", tmp_path / "next", objective={"kind": "sft"})
