"""An adapter beside its network: saved as PEFT saves it, trained or not, switched off."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bottega.adapters import CONFIG, InstallOptions
from bottega.adapters.lora import Lora
from bottega.errors import ModelError
from bottega.models.adapted import attach_saved
from bottega.models.one_of_several import OneOfSeveral
from bottega.models.row_adapters import RowAdapters


@pytest.mark.parametrize("trainable", [True, False])
def test_what_it_took_over_is_what_it_saves(trainable: bool, llama: Path, tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    Lora(rank=3).install(network, InstallOptions(peft_task="CAUSAL_LM")).save(tmp_path)
    network = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    installed = attach_saved(network, tmp_path, trainable=trainable)
    own = OneOfSeveral(RowAdapters(network), "own", installed)
    installed.model.unload()
    (tmp_path / "again").mkdir()
    own.save(tmp_path / "again")
    name = "adapter_model.safetensors"
    before, after = (load_file(folder / name) for folder in (tmp_path, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert (tmp_path / "again" / CONFIG).read_text() == (tmp_path / CONFIG).read_text()
    trained = [weight for key, weight in own.model.named_parameters() if "lora" in key and weight.requires_grad]
    assert len(trained) == (len(before) if trainable else 0)


def test_what_is_no_plain_lora_is_refused(llama: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    installed = Lora(rank=2, targets=["q_proj", "lm_head"]).install(network, InstallOptions(peft_task="CAUSAL_LM"))
    with pytest.raises(ModelError, match="LoRA of linear layers") as caught:
        OneOfSeveral(RowAdapters(network), "own", installed)
    assert caught.value.where == "the adapter own"
