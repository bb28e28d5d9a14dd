"""A plan says what a run then takes; for a run that does not fit, it finds a change that makes it fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.cli.interruption import Interrupted
from bottega.errors import OutOfMemory
from bottega.planning import plan
from bottega.planning.calibration import Calibration, shorten_config
from bottega.planning.changes import apply_changes, memory_saving_changes
from bottega.planning.memory import memory_by_part
from bottega.recipe.schema import Recipe
from bottega.runs.store import read_events, recipe_yaml
from bottega.training import memory_estimate
from bottega.training.dataset import build_dataset
from making import WORDS, make_model, write_jsonl


def recipe(folder: Path, **more: Any) -> Recipe:
    folder.mkdir(exist_ok=True)
    rows = [{"prompt": f"the cat {word}", "completion": " sat on the mat"} for word in WORDS]
    document = {
        "model": {"base": str(make_model(folder / "model", num_hidden_layers=6)), "dtype": "float32"},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows))},
        "objective": {"kind": "sft"},
        "optim": {"epochs": 4, "examples": 4},
    }
    return Recipe.parse(document | more)


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Instead of runs: 3 GB, and 1 GB for each layer. Returns the recipes that were calibrated."""
    recipes: list[Recipe] = []

    def calibrate(recipe: Recipe, config: Any, tell: Any) -> Calibration:
        recipes.append(recipe)
        saved = 4e9 if recipe.optim.checkpointing else 0.0
        return Calibration(6, 3e9 - saved, 1e9, 1e-4, 1e-4, 0.5)

    monkeypatch.setattr(plan, "calibrate", calibrate)
    return recipes


@pytest.mark.slow
def test_two_depths_extrapolate_to_all_layers(tmp_path: Path) -> None:
    """Planned with two and four of six layers, then run with all."""
    given = recipe(tmp_path, adapter={"rank": 4})
    found = bottega.plan(given)
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(given))
    run = tmp_path / "run"
    done = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml"), "--out", str(run), "--json"])
    assert done.exit_code == 0, done.output
    stepped = [event for event in read_events(run) if event["type"] == "stepped"]
    assert found.updates == len(stepped)
    assert found.tokens == pytest.approx(sum(event["tokens_real"] for event in stepped), rel=0.01)
    assert found.computed == pytest.approx(sum(event["tokens"] for event in stepped), rel=0.15)
    assert found.measured
    assert found.fits
    assert found.seconds is not None
    assert 0 < found.seconds < 60
    assert sum(found.parts.values()) == pytest.approx(found.memory, rel=0.05)
    assert not found.document()["advice"]


def test_the_numbers_of_a_plan(tmp_path: Path, calibrated: list[Recipe]) -> None:
    given = recipe(tmp_path)
    found = bottega.plan(given, price_hour=2.0, price_kwh=0.5, watts=100)
    assert (found.memory, found.updates) == (9_000_000_000, len(WORDS))
    assert found.computed == pytest.approx(found.tokens / 2, abs=1)
    assert found.seconds == pytest.approx(found.computed * 7e-4, rel=1e-3)
    hours = found.seconds / 3600
    assert found.energy == pytest.approx(100 * hours)
    assert found.cost == pytest.approx(2 * hours + 0.5 * 0.1 * hours)
    assert len(calibrated) == 1


def test_a_change_that_makes_a_run_fit_is_found(
    tmp_path: Path, calibrated: list[Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    activation_bytes = lambda recipe, rows, tokens: 2 * 10**9 if recipe.optim.checkpointing else 9 * 10**9  # noqa: E731
    monkeypatch.setattr(plan, "activation_bytes", activation_bytes)
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(recipe(tmp_path)))
    shown = CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yaml"), "--device", "7GB"])
    assert shown.exit_code == 0, shown.output
    assert "It does not fit" in shown.output
    assert "optim.checkpointing=true" in shown.output
    assert "estimated, not measured" in shown.output
    printed = CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yaml"), "--device", "h200", "--json"])
    document = json.loads(printed.stdout)
    assert document["fits"]
    assert not document["measured"]
    assert document["seconds"] > 0
    assert document["energy"] > 0
    assert calibrated == [], "for another device nothing is run"


@pytest.mark.parametrize("device", ["h200", "80GB"])
def test_another_device_is_planned_from_shapes(tmp_path: Path, device: str) -> None:
    """However large the model, no weight is made; that a recipe asks for CUDA is no obstacle where there is none."""
    shape = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    shape |= {"num_attention_heads": 32, "vocab_size": 32000}
    given = recipe(tmp_path)
    base = tmp_path / "large"
    base.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((tmp_path / "model" / name).read_bytes())
    document = given.document() | {"devices": {"device": "cuda"}, "adapter": {"rank": 16}}
    document["model"] = {"shape": None, "base": str(base), "dtype": "bfloat16"}
    (base / "config.json").write_text(json.dumps(shape | {"architectures": ["LlamaForCausalLM"]}))
    found = bottega.plan(Recipe.parse(document), device=device)
    assert found.parts["weights"] == pytest.approx(2 * 6.74e9, rel=0.03)
    assert found.fits
    assert not found.measured


def test_memory_by_part(tmp_path: Path) -> None:
    peak = 1_600_000_000
    full = recipe(tmp_path)
    rows = build_dataset(full)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "model"))
    weights = sum(weight.numel() for weight in model.parameters())
    parts = memory_by_part(full, rows, peak)
    assert parts["weights"] == parts["gradients"] == 4 * weights
    assert parts["optimiser"] == 8 * weights
    assert parts["reference"] == parts["adapter"] == 0
    half = full.model_copy(update={"model": full.model.model_copy(update={"dtype": "bfloat16"})})
    parts = memory_by_part(half, rows, peak)
    assert (parts["weights"], parts["optimiser"]) == (2 * weights, 10 * weights)
    aligned = recipe(tmp_path / "dpo", objective={"kind": "dpo"})
    assert memory_by_part(aligned, rows, peak)["reference"] == 4 * weights
    lora = memory_by_part(recipe(tmp_path / "lora", adapter={"rank": 4}), rows, peak)
    assert 0 < lora["optimiser"] < parts["optimiser"] / 4


def test_the_mildest_changes_come_first(tmp_path: Path) -> None:
    """First how it is computed, then what is trained, how the rest is kept, and last what is read."""
    full = recipe(tmp_path)
    rows = build_dataset(full)
    least = "optim.tokens=8 optim.checkpointing=true"
    adapted = f"adapter.rank=16 {least}"
    packed = f"model.quantize=nf4 {adapted}"
    half = max(len(example.rows[0].tokens) for example in rows.train.examples) // 2
    shorter = f"data.max_length={half} data.too_long=truncate"
    assert list(memory_saving_changes(full, rows, 8)) == [
        "optim.tokens=8",
        "optim.checkpointing=true",
        least,
        "adapter.rank=16",
        adapted,
        packed,
        f"{adapted} {shorter}",
        f"{packed} {shorter}",
    ]
    lora = recipe(tmp_path / "lora", adapter={"rank": 4})
    assert list(memory_saving_changes(lora, rows, 8))[3:4] == [f"model.quantize=nf4 {least}"]
    document = lora.document()
    small = Recipe.parse({**document, "model": document["model"] | {"quantize": "fp8"}})
    assert list(memory_saving_changes(small, rows, 8))[3:] == [f"{least} {shorter}"]
    for change in memory_saving_changes(lora, rows, 8):
        apply_changes(lora, change)


def test_quantized_weights_are_counted_by_their_size(tmp_path: Path) -> None:
    given = recipe(tmp_path, adapter={"rank": 4})
    config = build_dataset(given).config
    whole, small = (
        memory_estimate.parts(
            Recipe.parse(given.document() | {"model": given.document()["model"] | {"quantize": kind}}), config, 2
        )
        for kind in ("none", "nf4")
    )
    linear = memory_estimate.counts(given, config).linear
    assert small["weights"] == pytest.approx(whole["weights"] - 2 * linear + 0.516 * linear, rel=0.01)
    assert small["optimiser"] == whole["optimiser"]


def test_a_run_that_cannot_fit_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = recipe(tmp_path, optim={"steps": 1, "examples": 4})
    weights = memory_estimate.counts(given, build_dataset(given).config).total
    monkeypatch.setattr(memory_estimate, "limit", lambda device: 12 * weights)  # four bytes of each, and two moments
    assert list(bottega.train(given, tmp_path / "just"))[-1].type == "finished"
    monkeypatch.setattr(memory_estimate, "limit", lambda device: 12 * weights - 1)
    with pytest.raises(OutOfMemory, match="weights and optimiser alone take"):
        list(bottega.train(given, tmp_path / "over"))
    small = Recipe.parse({**given.document(), "adapter": {"rank": 2}})
    assert list(bottega.train(small, tmp_path / "small"))[-1].type == "finished"


def test_lists_with_an_entry_per_layer_are_shortened(tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(str(make_model(tmp_path / "g", "gemma3_text")))
    small = shorten_config(config, 2)
    assert (small.num_hidden_layers, len(small.layer_types)) == (2, 2)
    across = transformers.AutoConfig.from_pretrained(str(make_model(tmp_path / "t", "t5")))
    assert (shorten_config(across, 1).num_layers, shorten_config(across, 1).num_decoder_layers) == (1, 1)


def test_an_interrupted_plan_shows_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def calibrate(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr(plan, "calibrate", calibrate)
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(recipe(tmp_path)))
    known: list[plan.Plan] = []
    with pytest.raises(Interrupted):
        plan.plan(recipe(tmp_path), so_far=known.append)
    (found,) = known
    assert (found.updates > 0, found.memory > 0, found.seconds, found.measured) == (True, True, None, False)
    assert found.memory == sum(found.parts.values())
    with pytest.raises(Interrupted, match="stopped before everything was measured; what is known so far is above"):
        CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yaml")])
