"""Adapters on one base: each computes as if it were alone, and none is computed where it is switched off."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_kv_cache import example
from transformers import AutoModelForCausalLM

from bottega.adapters import InstallOptions
from bottega.adapters.lora import Lora
from bottega.errors import ModelError
from bottega.models.adapted import attach_saved
from bottega.models.scorer_setup import fit_model
from bottega.models.shared_base import SharedBase
from bottega.packing import pack


def plain(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_each_computes_as_if_it_were_alone(llama: Path, tmp_path: Path) -> None:
    base = SharedBase(2)
    base.load(lambda: (fit_model(plain(llama), "language"), []))
    batch = pack([example([7, 8, 9, 10]), example([20, 21, 22])])
    names = {"one": Lora(rank=2), "two": Lora(rank=4, alpha=6, targets=["q_proj", "up_proj"])}
    scorers = {}
    for seed, (name, adapter) in enumerate(names.items()):
        torch.manual_seed(seed)
        scorers[name] = base.adapt(name, adapter)
    bare = base.scorer(batch, frozenset({"logp"}))["logp"]
    for seed, (name, adapter) in enumerate(names.items()):
        torch.manual_seed(seed)
        alone = adapter.install(plain(llama), InstallOptions(peft_task="CAUSAL_LM"))
        wanted = {key: weight for key, weight in alone.model.named_parameters() if weight.requires_grad}
        found = {key: weight for key, weight in scorers[name].model.named_parameters() if weight.requires_grad}
        assert list(found) == list(wanted)
        assert all(torch.equal(found[key], weight) for key, weight in wanted.items())
        with torch.no_grad():
            for key, weight in wanted.items():
                weight += 0.1 * torch.randn_like(weight)
                found[key].copy_(weight)
        for folder, adapted in (("alone", alone), ("shared", scorers[name].adapted)):
            (tmp_path / name / folder).mkdir(parents=True)
            assert adapted is not None
            adapted.save(tmp_path / name / folder)
        files = [load_file(tmp_path / name / folder / "adapter_model.safetensors") for folder in ("alone", "shared")]
        assert files[0].keys() == files[1].keys()
        again = fit_model(plain(llama), "language")
        again.adapted = attach_saved(again.network, tmp_path / name / "shared")
        base.rows.use_everywhere(name)
        scores = scorers[name](batch, frozenset({"logp"}))["logp"]
        torch.testing.assert_close(scores, again(batch, frozenset({"logp"}))["logp"], atol=1e-5, rtol=0)
        assert (scores - bare).abs().max() > 0.01
        own = scorers[name].adapted
        assert own is not None
        with own.disabled():
            torch.testing.assert_close(scorers[name](batch, frozenset({"logp"}))["logp"], bare)


@pytest.mark.parametrize("adapter", [Lora(dora=True), Lora(dropout=0.1), Lora(init="pissa"), Lora(targets=["lm_head"])])
def test_what_is_more_than_lora_of_linear_layers_is_refused(adapter: Lora, llama: Path) -> None:
    base = SharedBase(2)
    base.load(lambda: (fit_model(plain(llama), "language"), []))
    with pytest.raises(ModelError, match="are LoRA of linear layers"):
        base.adapt("one", adapter)
