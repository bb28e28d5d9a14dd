"""Bottleneck adapters: behind which layers they are put, and that they start as the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers

from bottega.adapters import InstallOptions
from bottega.adapters.bottleneck import Bottleneck
from bottega.errors import ModelError
from making import make_model

IDS = torch.arange(3, 20)[None]
AUTOS: dict[str, Any] = {"bert": transformers.AutoModelForMaskedLM, "t5": transformers.AutoModelForSeq2SeqLM}


@pytest.mark.parametrize(
    ("kind", "attention", "feed_forward"),
    [
        ("llama", {"self_attn.o_proj"}, {"mlp.down_proj"}),
        ("gpt2", {"attn.c_proj"}, {"mlp.c_proj"}),
        ("bert", {"attention.output.dense"}, {"output.dense"}),
        ("t5", {"SelfAttention.o", "EncDecAttention.o"}, {"DenseReluDense.wo"}),
        ("mixtral", {"self_attn.o_proj"}, set()),
    ],
)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_they_stand_behind_the_layers_that_close_a_block(
    placement: Literal["houlsby", "pfeiffer"], kind: str, attention: set[str], feed_forward: set[str], tmp_path: Path
) -> None:
    auto = AUTOS.get(kind, transformers.AutoModelForCausalLM)
    network = auto.from_pretrained(make_model(tmp_path, kind), dtype=torch.float32)
    chosen = Bottleneck(width=2, placement=placement)
    if placement == "pfeiffer" and not feed_forward:
        with pytest.raises(ModelError, match="no layer is known"):
            chosen.install(network, InstallOptions())
        return
    more = {"decoder_input_ids": IDS} if kind == "t5" else {}
    with torch.no_grad():
        before = network(input_ids=IDS, **more).logits
        adapted = chosen.install(network, InstallOptions())
        torch.testing.assert_close(network(input_ids=IDS, **more).logits, before, rtol=0, atol=0)
    names = {name.partition(".up.weight")[0] for name in adapted.names if name.endswith(".up.weight")}
    wanted = feed_forward | (attention if placement == "houlsby" else set())
    assert {end for end in wanted for name in names if f".{name}".endswith(f".{end}")} == wanted
    behind_attention = [name for name in names if any(f".{name}".endswith(f".{end}") for end in attention)]
    assert bool(behind_attention) == (placement == "houlsby")


def test_named_layers_are_taken_and_others_refused(llama: Path) -> None:
    network = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    adapted = Bottleneck(width=2, targets=["q_proj"]).install(network, InstallOptions())
    assert {name.split(".")[-3] for name in adapted.names} == {"q_proj"}
    with pytest.raises(ModelError, match="no layer is called nothing"):
        Bottleneck(targets=["nothing"]).install(network, InstallOptions())
    with pytest.raises(ModelError, match="is no linear layer"):
        Bottleneck(targets=["norm"]).install(network, InstallOptions())


def test_a_report_names_its_width() -> None:
    assert Bottleneck(width=8).label == "bottleneck adapters of width 8"


def test_a_new_head_has_none() -> None:
    network = torch.nn.ModuleDict({"layer": torch.nn.ModuleDict({"out_proj": torch.nn.Linear(4, 4)})})
    network["classifier"] = torch.nn.ModuleDict({"out_proj": torch.nn.Linear(4, 2)})
    network["head"] = torch.nn.ModuleDict({"fc2": torch.nn.Linear(4, 2)})
    adapted = Bottleneck(width=2).install(network, InstallOptions(("head",)))
    assert {name for name in adapted.names if ".up." in name} == {"layer.out_proj.up.weight", "layer.out_proj.up.bias"}
