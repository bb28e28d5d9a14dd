"""`bottega jobs` against a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bottega.cli.commands import app
from making import make_model, write_jsonl

ROWS = [{"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}] * 12


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with a base."""
    from serving import TEMPLATE, start_with_folder

    folder = tmp_path_factory.mktemp("server")
    base = make_model(folder / "base", template=TEMPLATE, max_position_embeddings=512)
    with start_with_folder(folder / "state", base=base) as running:
        yield f"{running.url}/v1"


def call(url: str, *arguments: str, code: int = 0) -> str:
    done: Any = CliRunner().invoke(app, [*arguments, "--url", url])
    assert done.exit_code == code, done.output
    return str(done.output)


def test_a_job_from_a_file_to_its_checkpoints(url: str, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    numbers = '{"n_epochs": 2, "batch_size": 6}'
    output = call(url, "jobs", "create", "base", str(rows), "--suffix", "mine", "-H", numbers, "--follow")
    assert "Step 4/4: training loss=" in output
    assert "The job has successfully completed" in output
    (job,) = json.loads(call(url, "jobs", "list", "--json"))
    assert job["fine_tuned_model"].startswith("ft:base:local:mine:")
    assert job["id"] in call(url, "jobs", "list")
    assert json.loads(call(url, "jobs", "retrieve", job["id"]))["status"] == "succeeded"
    assert call(url, "jobs", "checkpoints", job["id"]).count(":ckpt-step-") == 2
    assert len(json.loads(call(url, "jobs", "events", job["id"], "--json"))) >= 8
    assert "cannot be cancelled" in call(url, "jobs", "cancel", job["id"], code=2)


def test_what_fails_is_said(url: str, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "few.jsonl", ROWS[:3])
    assert "must have at least 10 examples" in call(url, "jobs", "create", "base", str(rows), "--follow", code=2)
    assert "does not exist" in call(url, "jobs", "create", "nope", str(rows), code=2)
    assert "nowhere.jsonl: no such file" in call(url, "jobs", "create", "base", "nowhere.jsonl", code=2)
    assert "invalid training_file" in call(url, "jobs", "create", "base", "file-nope", code=2)
    assert "not JSON" in call(url, "jobs", "create", "base", str(rows), "-H", "{", code=2)
    assert "no server answers" in call("http://127.0.0.1:9/v1", "jobs", "list", code=2)
