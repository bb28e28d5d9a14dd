"""Run folders: what the commands say of finished, stopped and damaged runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import bottega
from bottega.cli.commands import app
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import checksum


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_finished_run(recipe: Path) -> None:
    assert call("train", recipe, "optim.steps=3").exit_code == 0
    run = Path("runs/run-1")
    weights = checksum(run / "model" / "model.safetensors")
    again = call("train", "--resume", run)
    assert again.exit_code == 0
    assert "already finished; there is nothing left to do" in again.stderr
    assert "edited" not in again.stderr
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("0.01", "0.02"))
    again = call("train", "--resume", run)
    words = again.stderr.replace("\n", " ")
    assert "was edited since the run began" in words
    advised = "bottega train runs/run-1/recipe.yaml optim.steps=3"
    assert advised in words
    # The advice works: paths are those of the recipe as it stood, and what was overridden is again.
    assert call(*advised.split()[1:]).exit_code == 0
    assert checksum(Path("runs/run-2/model/model.safetensors")) != weights
    assert checksum(run / "model" / "model.safetensors") == weights
    shown = call("show", run).stdout
    assert "bottega evaluate runs/run-1" in shown
    assert "--resume" not in shown


@pytest.mark.parametrize("command", [["train"], ["plan"], ["preview"], ["train", "--dry-run"]])
def test_a_run_folder_is_refused_as_a_recipe(command: list[str], recipe: Path) -> None:
    for event in bottega.train(Recipe.load(recipe, "optim.steps=3"), Path("run")):
        if event.type == "started":
            break
    done = call(*command, "run")
    assert done.exit_code == 2
    assert "this is a run, not a recipe" in done.stderr
    assert "bottega train --resume run" in done.stderr.replace("\n", " ")


def test_a_run_with_missing_or_damaged_files(recipe: Path) -> None:
    """No command ends in a traceback or hides other runs, and the advice given works."""
    assert call("train", recipe, "optim.steps=2").exit_code == 0
    run = Path("runs/run-1")
    whole = checksum(run / "model/model.safetensors")
    for name, text in (("report.json", "[]"), ("recipe.yaml", "\ufffd"), ("place.json", "[]")):
        copied = Path(shutil.copytree(run, f"runs/{name}"))
        (copied / name).write_text(text)
        assert call("show", copied).exit_code == 0
    odd = Path(shutil.copytree(run, "runs/odd"))
    (odd / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    (odd / "events.jsonl").write_text('{}\nnull\n[1]\n{"type": "stepped"}\n' + (odd / "events.jsonl").read_text()[:-9])
    assert call("show", odd).exit_code == 0
    assert "bottega train runs/odd/recipe.yaml" in call("train", "--resume", odd).stderr.replace("\n", " ")
    silent = Path(shutil.copytree(run, "runs/silent"))
    (silent / "events.jsonl").unlink()
    assert "done" not in call("train", "--resume", silent).stderr.replace("nothing left to do", "")
    (silent / "events.jsonl").mkdir()
    assert {Path(found["run"]).name for found in json.loads(call("runs", "--json").stdout)} >= {"run-1", "odd"}
    assert [found["run"] for found in json.loads(call("runs", run, "--json").stdout)] == [str(run)]
    (odd / "resolved.json").unlink()
    assert "resolved.json is missing" in call("show", odd).stderr
    (run / "model/model.safetensors").unlink()
    shown = call("show", run).stdout.replace("\n", " ")
    assert "its result is incomplete, model/model.safetensors is missing" in shown
    assert "rm -r runs/run-1/model; bottega train --resume runs/run-1" in shown
    shutil.rmtree(run / "model")
    assert call("train", "--resume", run).exit_code == 0
    assert checksum(run / "model/model.safetensors") == whole
