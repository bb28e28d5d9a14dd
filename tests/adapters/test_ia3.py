"""IA³: which layers it takes by default, on which side of a layer its factors are, and that it starts as the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from bottega.adapters import InstallOptions
from bottega.adapters.ia3 import Ia3
from bottega.errors import ModelError
from making import make_model

IDS = torch.arange(3, 20)[None]
OPTIONS = InstallOptions(peft_task="CAUSAL_LM")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", {"k_proj", "v_proj", "down_proj"}),
        ("gpt2", {"c_attn", "mlp.c_proj"}),
        ("mixtral", {"k_proj", "v_proj"}),
    ],
)
def test_keys_values_and_inner_activations_by_default(kind: str, names: set[str], tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(make_model(tmp_path, kind), dtype=torch.float32)
    with torch.no_grad():
        before = network(input_ids=IDS).logits
        adapted = Ia3().install(network, OPTIONS)
        torch.testing.assert_close(adapted.network(input_ids=IDS).logits, before)
    places = {name.partition(".ia3_l")[0] for name, _ in adapted.network.named_parameters() if "ia3_l" in name}
    ends = {end for end in names for place in places if place.endswith(f".{end}")}
    assert ends == names
    assert all(any(place.endswith(f".{end}") for end in names) for place in places), places


def test_a_factor_of_two_doubles_what_it_multiplies(llama: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    value, down = (
        network.get_submodule(f"model.layers.0.{name}").weight.detach().clone()
        for name in ("self_attn.v_proj", "mlp.down_proj")
    )
    adapted = Ia3().install(network, OPTIONS)
    for name, factors in adapted.network.named_parameters():
        if "ia3_l" in name:
            assert factors.shape[0 if "down_proj" in name else 1] == 1, "an input is a row, an output a column"
            factors.data.fill_(2)
    merged = adapted.merge()
    torch.testing.assert_close(merged.get_submodule("model.layers.0.self_attn.v_proj").weight, 2 * value)
    torch.testing.assert_close(merged.get_submodule("model.layers.0.mlp.down_proj").weight, 2 * down)


def test_a_model_of_unknown_names_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="no layer is known to make keys and values") as caught:
        Ia3().install(torch.nn.Sequential(torch.nn.Linear(2, 2)), OPTIONS)
    assert caught.value.fix == "name the layers in adapter.targets"


def test_bert_is_adapted_inside_its_feed_forward_blocks(tmp_path: Path) -> None:
    network = AutoModelForMaskedLM.from_pretrained(make_model(tmp_path, "bert"), dtype=torch.float32)
    adapted = Ia3().install(network, InstallOptions())
    places = {name.partition(".ia3_l")[0] for name, _ in adapted.network.named_parameters() if "ia3_l" in name}
    assert places
    assert not any(place.endswith("attention.output.dense") for place in places)


def test_what_is_multiplied_inside_is_found_by_the_end_of_its_name(llama: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    adapted = Ia3(targets=["mlp.down_proj", "k_proj"]).install(network, OPTIONS)
    shapes = {tuple(weight.shape) for name, weight in adapted.network.named_parameters() if "down_proj.ia3_l" in name}
    assert shapes == {(1, 48)}
    with pytest.raises(ModelError, match="no adapted layer is called nothing"):
        Ia3(feed_forward=["nothing"]).install(AutoModelForCausalLM.from_pretrained(llama), OPTIONS)
