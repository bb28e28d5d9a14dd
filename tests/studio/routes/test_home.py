"""The first page's data, and the demo."""

from __future__ import annotations

from pathlib import Path

import pytest
from studios import Studio, run_studio


def test_an_empty_workshop_says_what_the_machine_has(studio: Studio) -> None:
    home = studio.get("home")
    assert (home["runs"], home["data"], home["models"], home["tasks"]) == ([], [], [], [])
    assert 0 < home["machine"]["free"] <= home["machine"]["memory"]
    assert home["machine"]["cores"] >= 1


@pytest.mark.slow
def test_the_demo_brings_data_and_begins_to_train(tmp_path: Path) -> None:
    with run_studio(tmp_path) as studio:
        task = studio.post("demo", {"language": "it"})["task"]
        while not studio.get("tasks/" + task).get("progress", {}).get("total"):
            assert studio.wait(task, "running", "failed")["status"] == "running"
        names = [data["name"] for data in studio.get("home")["data"]]
        assert names == [
            f"demo-{name}"
            for name in ("documents", "documents-held-out", "pairs", "pairs-held-out", "tasks", "tasks-held-out")
        ]
        studio.post(f"tasks/{task}/stop")
        assert studio.wait(task)["status"] == "stopped"
        # Whatever it was at, it can go on.
        assert studio.get("runs/demo-base-1")["status"] == "stopped"
