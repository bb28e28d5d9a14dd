"""A plan says what a run then takes; for a run that does not fit, it finds a change that makes it fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.cli.interruption import Interrupted
from bottega.planning import plan
from bottega.planning.calibration import Calibration
from bottega.recipe.schema import Recipe
from bottega.runs.store import recipe_yaml
from making import WORDS, make_recipe


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


def test_the_numbers_of_a_plan(tmp_path: Path, calibrated: list[Recipe]) -> None:
    given = make_recipe(tmp_path)
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
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(make_recipe(tmp_path)))
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
    given = make_recipe(tmp_path)
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


def test_an_interrupted_plan_shows_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def calibrate(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr(plan, "calibrate", calibrate)
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(make_recipe(tmp_path)))
    known: list[plan.Plan] = []
    with pytest.raises(Interrupted):
        plan.plan(make_recipe(tmp_path), so_far=known.append)
    (found,) = known
    assert (found.updates > 0, found.memory > 0, found.seconds, found.measured) == (True, True, None, False)
    assert found.memory == sum(found.parts.values())
    with pytest.raises(Interrupted, match="stopped before everything was measured; what is known so far is above"):
        CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yaml")])
