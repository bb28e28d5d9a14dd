"""Runs over HTTP: started, watched by cursor, stopped, resumed, evaluated and deleted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from studios import Studio, run_studio

import bottega
from making import QUESTIONS, make_model, write_jsonl

ROWS = [{"instruction": f"{row['instruction']} {n}", "output": row["output"]} for n in range(3) for row in QUESTIONS]


@pytest.fixture(scope="module")
def recipe(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A recipe of a run of some seconds."""
    folder = tmp_path_factory.mktemp("rows")
    return {
        "name": "mine",
        "model": {"base": str(make_model(folder / "base")), "dtype": "float32"},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", ROWS)), "validation": 0.2},
        "objective": {"kind": "sft"},
        "optim": {"steps": 8, "examples": 4},
    }


@pytest.fixture(scope="module")
def finished(studio: Studio, recipe: dict[str, object]) -> str:
    """The name of a run that has finished."""
    started = studio.post("runs", {"recipe": recipe})
    assert studio.wait(started["task"])["status"] == "done"
    return str(started["run"])


def test_a_run_is_followed_by_cursor(studio: Studio, finished: str) -> None:
    whole = studio.get(f"runs/{finished}")
    assert (whole["status"], whole["step"], whole["steps"]) == ("finished", 8, 8)
    assert whole["events"][0]["type"] == "started"
    assert sum(event["type"] == "stepped" for event in whole["events"]) == 8
    rest = studio.get(f"runs/{finished}?since={whole['next'] - 2}")
    assert rest["events"] == whole["events"][-2:]
    assert studio.get(f"runs/{finished}?since={whole['next']}")["events"] == []
    # A cursor from before the log was rewritten: from the beginning.
    assert studio.get(f"runs/{finished}?since=100000")["since"] == 0
    assert [run["id"] for run in studio.get("runs")] == [finished]
    assert {"name": finished, "source": whole["run"], "kind": "run"} in studio.get("models")


def test_its_recipe_is_kept_as_written(studio: Studio, finished: str) -> None:
    kept = studio.get(f"runs/{finished}/recipe")
    assert "examples: 4" in kept["text"]
    assert kept["document"]["optim"]["steps"] == 8


def test_a_run_is_evaluated_and_its_report_read(studio: Studio, finished: str) -> None:
    assert studio.refusal("GET", f"runs/{finished}/report")["fix"] == "evaluate it first"
    options = {"rows": 6, "answers": 0}
    task = studio.wait(studio.post(f"runs/{finished}/evaluate", {"options": options})["task"])
    assert task["status"] == "done", task
    report = studio.get(f"runs/{finished}/report")
    assert report["verdict"]["sentence"] == task["result"]["verdict"]
    page = studio.http.get(f"/studio/api/runs/{finished}/report.html")
    assert page.headers["content-type"].startswith("text/html")
    assert studio.get(f"runs/{finished}")["verdict"] == report["verdict"]["sentence"]


def test_a_run_is_stopped_goes_on_and_is_deleted(studio: Studio, recipe: dict[str, object]) -> None:
    long = {**recipe, "optim": {"steps": 4000, "examples": 4}, "name": "long"}
    started = studio.post("runs", {"recipe": long})
    while studio.get(f"runs/{started['run']}")["next"] < 4:
        time.sleep(0.1)
    assert studio.refusal("DELETE", f"runs/{started['run']}")["fix"] == "stop it first"
    studio.post(f"runs/{started['run']}/stop")
    assert studio.wait(started["task"])["status"] == "stopped"
    before = studio.get(f"runs/{started['run']}")
    assert before["status"] == "stopped"
    assert before["step"] > 0
    again = studio.post(f"runs/{started['run']}/resume")
    while studio.get(f"runs/{started['run']}")["step"] <= before["step"]:
        time.sleep(0.1)
    studio.post(f"runs/{started['run']}/stop")
    assert studio.wait(again["task"])["status"] == "stopped"
    assert studio.http.delete(f"/studio/api/runs/{started['run']}").status_code == 200
    assert started["run"] not in [run["id"] for run in studio.get("runs")]


@pytest.mark.slow
def test_a_run_goes_on_when_the_server_is_restarted(tmp_path: Path, recipe: dict[str, object]) -> None:
    with run_studio(tmp_path) as first:
        started = first.post("runs", {"recipe": {**recipe, "optim": {"steps": 4000, "examples": 4}}})
        while first.get(f"runs/{started['run']}")["next"] < 4:
            time.sleep(0.1)
    with run_studio(tmp_path) as second:
        seen = second.get(f"runs/{started['run']}")
        assert seen["status"] == "running"
        while second.get(f"runs/{started['run']}")["step"] <= seen["step"]:
            time.sleep(0.1)
        second.post(f"runs/{started['run']}/stop")
        assert second.wait(started["task"])["status"] == "stopped"


def test_a_recipe_that_is_wrong_starts_nothing(studio: Studio, recipe: dict[str, object]) -> None:
    refusal = studio.refusal("POST", "runs", {"recipe": {**recipe, "optim": {"stepz": 1}}})
    assert refusal["code"] == "RecipeError"
    assert "stepz" in f"{refusal['where']} {refusal['message']}"
    assert studio.refusal("POST", "runs", {"text": "- a list"})["message"] == "not a recipe"
    assert studio.refusal("GET", "runs/unknown")["message"] == "no such run"
    assert studio.refusal("GET", "runs/..")["code"] in ("RunError", "Unexpected")


def test_a_run_that_fails_says_why(studio: Studio, recipe: dict[str, object]) -> None:
    started = studio.post("runs", {"recipe": {**recipe, "name": "huge", "optim": {"steps": 2, "lr": 1e30}}})
    task = studio.wait(started["task"])
    assert task["status"] == "failed"
    assert task["failure"]["kind"] == bottega.Diverged.__name__
    seen = studio.get(f"runs/{started['run']}")
    assert seen["tasks"][0]["failure"] == task["failure"]
