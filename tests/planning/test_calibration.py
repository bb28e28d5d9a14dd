"""Short runs at two depths give memory and speed of all layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.models.dimensions import layer_count
from bottega.objectives.rewards import SampledAnswer
from bottega.planning.calibration import (
    UPDATES,
    Calibration,
    Measurement,
    _calibration_overrides,
    _depths,
    can_shorten,
    pack_without_running,
    shorten_config,
    update_count,
)
from bottega.recipe.schema import Recipe
from bottega.records import Posed
from bottega.runs.store import read_events, recipe_yaml
from bottega.training.dataset import build_dataset
from bottega.training.trials import vary
from making import make_model, make_recipe, tiny_config


@pytest.mark.slow
def test_two_depths_extrapolate_to_all_layers(tmp_path: Path) -> None:
    """Planned with two and four of six layers, then run with all."""
    given = make_recipe(tmp_path, adapter={"rank": 4})
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


def test_lists_with_an_entry_per_layer_are_shortened(tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(str(make_model(tmp_path / "g", "gemma3_text")))
    small = shorten_config(config, 2)
    assert (small.num_hidden_layers, len(small.layer_types)) == (2, 2)
    across = transformers.AutoConfig.from_pretrained(str(make_model(tmp_path / "t", "t5")))
    assert (shorten_config(across, 1).num_layers, shorten_config(across, 1).num_decoder_layers) == (1, 1)


@pytest.mark.parametrize("kind", ["funnel", "prophetnet", "perceiver", "blt"])
def test_which_models_are_measured_with_fewer_layers(kind: str) -> None:
    config = transformers.AutoConfig.for_model(kind)
    assert not can_shorten(config)
    assert shorten_config(config, layer_count(config)).to_dict() == config.to_dict()
    assert can_shorten(tiny_config("llama"))
    assert layer_count(shorten_config(tiny_config("llama"), 1)) == 1


def test_a_line_through_two_depths() -> None:
    found = Calibration(
        layers=30, base_memory=2e9, layer_memory=1e8, base_rate=1e-5, layer_rate=2e-6, computed_fraction=1
    )
    assert found.memory == 5_000_000_000
    assert found.rate == pytest.approx(7e-5)


def test_the_first_half_of_a_run_warms_up_and_one_slow_update_counts_little() -> None:
    seconds, tokens = [9.0, 9.0, 9.0, 1.0, 50.0, 1.2], [100, 100, 100, 100, 100, 120]
    assert Measurement(0, seconds, tokens, tokens).rate == pytest.approx(0.01)
    rounds = Measurement(0, [9.0, 9.0, 5.0, 1.0], [10, 10, 30, 30], [], passes=2)
    assert rounds.rate == pytest.approx(0.1), "a whole round, since only its first update samples answers"


@pytest.mark.parametrize(("layers", "depths"), [(2, [2]), (8, [8]), (9, [4, 8]), (30, [6, 12]), (80, [16, 32])])
def test_depths_that_are_run(layers: int, depths: list[int]) -> None:
    assert _depths(tiny_config("llama"), layers) == depths
    assert _depths(transformers.AutoConfig.for_model("funnel"), layers) == [layers], "its depth cannot be set"


def test_updates_are_packed_to_see_how_much_is_shared(tmp_path: Path) -> None:
    given = make_recipe(tmp_path)
    rows = build_dataset(given)
    found = pack_without_running(given, rows)
    assert (found.memory, found.rate) == (0, 0)
    assert 0.3 < found.computed_fraction < 1, "the prompts begin alike"
    sampled = make_recipe(tmp_path, objective={"kind": "grpo", "rewards": "exact", "passes": 3})
    assert pack_without_running(sampled, rows).computed_fraction == 1
    assert (update_count(given), update_count(sampled)) == (UPDATES, 6)


def test_a_trial_run_has_random_weights_in_a_shorter_model(tmp_path: Path) -> None:
    given = make_recipe(
        tmp_path, layers=4, evaluate={}, data={"train": str(tmp_path / "rows.jsonl"), "validation": 0.2}
    )
    config = build_dataset(given).config
    changed = Recipe.parse(vary(given.document(), _calibration_overrides(given, config, 2, tmp_path)))
    assert (changed.evaluate, changed.save, changed.optim.steps, changed.optim.epochs) == (None, None, UPDATES, None)
    assert changed.model.base == str(tmp_path / "model")
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert layer_count(written.config) == 2
    shape = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 4, "vocab_size": 300}
    new = make_recipe(tmp_path / "new", model={"shape": shape, "tokenizer": str(tmp_path / "model")})
    overrides = _calibration_overrides(new, tiny_config("llama", num_hidden_layers=4), 3, tmp_path)
    assert (overrides["model.shape"]["model_type"], overrides["model.shape"]["num_hidden_layers"]) == ("llama", 3)
    assert "model.base" not in overrides


def test_a_trial_run_with_rewards_has_one_that_varies(tmp_path: Path) -> None:
    given = make_recipe(tmp_path, objective={"kind": "grpo", "rewards": "exact"})
    overrides = _calibration_overrides(given, tiny_config("llama"), 2, tmp_path)
    *_, varying = Recipe.parse(vary(given.document(), overrides)).objective.on_policy.rewards  # type: ignore[union-attr]
    answers = [SampledAnswer(Posed("", ""), text, 1, True) for text in ("a", "b")]
    assert len(set(varying.scores(answers, lambda *_: []))) == 2
