"""PiSSA and LoftQ: what they start at, what of it changes the model, and that what is saved is LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import bottega
from bottega import adapters
from bottega.adapters import CONFIG, AdaptedModel, InstallOptions
from bottega.adapters._base import WEIGHTS
from bottega.adapters.lora import Lora
from bottega.errors import ModelError, RecipeError
from bottega.inference.language_model import load_language_model
from bottega.models.adapted import merge_saved
from bottega.models.quantization.linear import Fp8Linear, quantize_model
from making import write_jsonl

IDS = torch.arange(3, 20)[None]
UP = "model.layers.0.mlp.up_proj"


def installed(folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Lora(init="pissa", **options).install(model, InstallOptions(peft_task="CAUSAL_LM"))


def test_it_starts_at_the_largest_singular_values(llama: Path) -> None:
    adapted = installed(llama, rank=4, alpha=6)
    layer = adapted.network.get_submodule(UP)
    update = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    u, s, v = torch.linalg.svd(layer.get_base_layer().weight)
    best = u[:, :4] * s[:4] @ v[:4]
    assert torch.linalg.norm(update - best) < 0.05 * torch.linalg.norm(best)
    # Of both matrices the same share, so that both learn alike.
    norms = [torch.linalg.norm(matrices["default"].weight) for matrices in (layer.lora_A, layer.lora_B)]
    torch.testing.assert_close(*norms, rtol=1e-3, atol=0)


def test_the_start_is_subtracted(llama: Path) -> None:
    adapted = installed(llama, rank=4)
    plain = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    with torch.no_grad():
        wanted = plain(input_ids=IDS).logits
        torch.testing.assert_close(adapted.network(input_ids=IDS).logits, wanted, rtol=0, atol=1e-5)
    for name, weight in plain.named_parameters():
        base = name.replace(".weight", ".base_layer.weight") if "_proj" in name else name
        torch.testing.assert_close(adapted.network.get_parameter(base), weight, rtol=0, atol=0)


def test_only_what_was_learned_is_merged(llama: Path) -> None:
    merged = installed(llama, rank=4).merge()
    for name, weight in AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).named_parameters():
        torch.testing.assert_close(merged.get_parameter(name), weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rslora", [False, True])
def test_it_is_saved_as_lora_of_twice_the_rank(rslora: bool, llama: Path, tmp_path: Path) -> None:
    adapted = installed(
        llama,
        rank=4,
        alpha=6,
        rslora=rslora,
        targets=["up_proj", "q_proj"],
        rank_pattern={"q_proj": 2},
        alpha_pattern={"q_proj": 3},
    )
    scale = adapted.network.get_submodule(UP).scaling["default"]
    adapted.save(tmp_path)
    config, weights = json.loads((tmp_path / CONFIG).read_text()), load_file(tmp_path / WEIGHTS)
    assert (config["r"], config["rank_pattern"]) == (8, {"q_proj": 4})
    assert config["lora_alpha"] / (8**0.5 if rslora else 8) == pytest.approx(scale)
    ranks = {len(weight) for name, weight in weights.items() if "lora_A" in name}
    assert ranks == {4, 8}
    assert not any("start" in name for name in weights)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_rank_beyond_that_of_a_weight(llama: Path) -> None:
    adapted = installed(llama, rank=100, targets=["k_proj"])
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)(input_ids=IDS).logits
        torch.testing.assert_close(adapted.network(input_ids=IDS).logits, wanted, rtol=0, atol=1e-5)


def test_embeddings_have_no_principal_part(llama: Path) -> None:
    with pytest.raises(ModelError, match="only linear layers can start elsewhere than at zero, and not Embedding"):
        installed(llama, rank=2, targets=["embed_tokens", "q_proj"])


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def quantized(folder: Path) -> Any:
    model = plain(folder)
    quantize_model(model, "fp8", [])
    return model


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS).logits
    return found


def loftq(folder: Path, *, reference: bool = False, **options: Any) -> AdaptedModel:
    weights = dict(plain(folder).named_parameters())
    read = InstallOptions(peft_task="CAUSAL_LM", reference=reference, unquantized=lambda: iter(weights.items()))
    return Lora(init="loftq", **options).install(quantized(folder), read)


def test_it_starts_at_what_the_weights_lost(llama: Path) -> None:
    wanted, rounded = logits(plain(llama)), logits(quantized(llama))
    near = [float((logits(loftq(llama, rank=rank).network) - wanted).norm()) for rank in (8, 32)]
    assert near[1] < near[0] < float((rounded - wanted).norm())


def test_switched_off_it_is_the_model_that_it_started_as(llama: Path) -> None:
    adapted = loftq(llama, rank=4, reference=True)
    start = logits(adapted.network)
    shaken(adapted)
    assert not torch.allclose(logits(adapted.network), start, atol=1e-2)
    with adapted.disabled():
        torch.testing.assert_close(logits(adapted.network), start)


def shaken(adapted: AdaptedModel) -> None:
    with torch.no_grad():
        for weight in adapted.model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)


@pytest.mark.parametrize("reference", [False, True])
def test_what_is_saved_belongs_on_the_quantized_weights(reference: bool, llama: Path, tmp_path: Path) -> None:
    adapted = loftq(llama, rank=4, reference=reference)
    learned = {name: weight.detach().clone() for name, weight in adapted.model.named_parameters() if "lora" in name}
    shaken(adapted)
    adapted.save(tmp_path)
    torch.testing.assert_close(logits(adapters.attach(quantized(llama), tmp_path).network), logits(adapted.network))
    # On the weights as they were: what was learned, and nothing for what these have not lost.
    whole, merged = adapters.attach(plain(llama), tmp_path), merge_saved(plain(llama), tmp_path, torch.float32)
    torch.testing.assert_close(logits(whole.network), logits(merged), atol=1e-5, rtol=0)
    layer = adapted.network.get_submodule(UP)
    a, b = (getattr(layer, part)["default"].weight for part in ("lora_A", "lora_B"))
    place = f"base_model.model.{UP}"
    before = learned[f"{place}.lora_B.default.weight"] @ learned[f"{place}.lora_A.default.weight"]
    change = merged.get_parameter(f"{UP}.weight") - plain(llama).get_parameter(f"{UP}.weight")
    torch.testing.assert_close(change, layer.scaling["default"] * (b @ a - before), atol=1e-5, rtol=0)


def test_a_run_starts_so_and_can_be_continued(llama: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"the {word} ", "completion": "sat on the mat"} for word in ("cat", "dog", "tree", "mat")]
    sections: dict[str, Any] = {
        "model": {"base": str(llama), "dtype": "float32", "quantize": "fp8"},
        "adapter": {"rank": 4, "init": "loftq"},
        "objective": {"kind": "sft"},
        "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows))},
        "optim": {"steps": 6, "examples": 3, "lr": 1e-2},
    }
    losses = [e.loss for e in bottega.train(bottega.Recipe.parse(sections), tmp_path / "one") if e.type == "stepped"]
    assert losses[-1] < losses[0]
    more = bottega.Recipe.parse({**sections, "model": {"dtype": "float32"}, "adapter": {"from": str(tmp_path / "one")}})
    (first, *_) = [e.loss for e in bottega.train(more, tmp_path / "two") if e.type == "stepped"]
    assert first < losses[0]
    names = [sorted(path.name for path in (tmp_path / run / "adapter").iterdir()) for run in ("one", "two")]
    assert names[0] == names[1]
    assert load_language_model(str(tmp_path / "two")).scorer.adapted is not None
    exported = bottega.export(tmp_path / "two", tmp_path / "merged", rows=0)
    assert exported.folder.is_dir()


def test_a_base_that_is_not_quantized_has_lost_nothing() -> None:
    document = {"model": {"base": "m"}, "data": {"train": "a.jsonl"}, "objective": {"kind": "sft"}}
    with pytest.raises(RecipeError, match="it starts at what weights lose when they are quantized"):
        bottega.Recipe.parse({**document, "adapter": {"init": "loftq"}})


def test_layers_that_are_not_quantized_start_as_ever(llama: Path) -> None:
    adapted = loftq(llama, rank=4, targets=["q_proj", "lm_head"])
    head, layer = (adapted.network.get_submodule(name) for name in ("lm_head", "model.layers.0.self_attn.q_proj"))
    assert head.lora_A["default"].weight.abs().min() > 0
    assert not head.lora_B["default"].weight.any()
    assert layer.lora_B["default"].weight.any()


def test_a_start_makes_up_for_one_form_of_weights(llama: Path, tmp_path: Path) -> None:
    loftq(llama, rank=2).save(tmp_path)
    other = quantized(llama)
    for module in other.modules():
        if isinstance(module, Fp8Linear):
            module.__class__ = type("Other", (Fp8Linear,), {})
    with pytest.raises(ModelError, match="what weights lose as Fp8Linear, and these are Other"):
        adapters.attach(other, tmp_path)


@pytest.mark.parametrize("init", ["pissa", "loftq"])
def test_the_start_is_read_again_and_not_made_again(init: str, llama: Path, tmp_path: Path) -> None:
    make = loftq if init == "loftq" else installed
    adapted, other = make(llama, rank=4), make(llama, rank=4)
    with torch.no_grad():
        for name, weight in adapted.model.named_parameters():
            if "bottega_start" in name:
                weight += 0.1 * torch.randn_like(weight)
    adapted.save(tmp_path)
    other.restore(tmp_path)
    wanted = dict(adapted.model.named_parameters())
    for name, weight in other.model.named_parameters():
        if "bottega_start" in name:
            torch.testing.assert_close(weight, wanted[name], rtol=0, atol=0)
