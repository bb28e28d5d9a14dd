"""`bottega jobs` and `bottega files` without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from bottega.cli.commands import app
from making import make_model, write_jsonl

ROWS = [{"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}] * 12


def test_jobs_without_a_server(tmp_path: Path) -> None:
    """A command trains, others see what it has left, and a second job goes on from the model of the first."""
    from serving import TEMPLATE

    base = make_model(tmp_path / "base", template=TEMPLATE, max_position_embeddings=512)
    rows, state = str(write_jsonl(tmp_path / "rows.jsonl", ROWS)), str(tmp_path / "state")

    def local(*arguments: str, code: int = 0) -> str:
        done: Any = CliRunner().invoke(app, [*arguments, "--local", state])
        assert done.exit_code == code, done.output
        return str(done.output)

    numbers = '{"n_epochs": 1, "batch_size": 6}'
    output = local("jobs", "create", f"mine={base}", rows, "-H", numbers)
    assert "The job has successfully completed" in output
    (job,) = json.loads(local("jobs", "list", "--json"))
    assert job["fine_tuned_model"].startswith("ft:mine:local::")
    assert "step_metrics.csv" in local("files", "list")
    assert "successfully" in local("jobs", "create", job["fine_tuned_model"], rows, "-H", numbers)
    assert "does not exist" in local("jobs", "create", "ft:nope", rows, code=2)
    assert "no such folder" in local("jobs", "create", "./nope", rows, code=2)
