"""`bottega keys`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from bottega.cli.commands import app


def call(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["keys", *arguments, "--folder", str(folder)])


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    assert "no keys" in call(tmp_path, "list").output
    made = call(tmp_path, "create", "laptop", "--scope", "infer", "--per-minute", "60")
    key = made.output.strip()
    assert key.startswith("sk-bottega-")
    listed = call(tmp_path, "list").output
    assert "laptop" in listed
    assert key not in listed
    (found,) = json.loads(call(tmp_path, "list", "--json").output)
    assert call(tmp_path, "revoke", found["id"]).output == f"{found['id']} is revoked\n"
    assert json.loads(call(tmp_path, "list", "--json").output)[0]["revoked_at"]
    for arguments, words in (
        (("create", "x", "--scope", "magic"), "no such scope"),
        (("revoke", "nope"), "no such key"),
    ):
        failed = call(tmp_path, *arguments)
        assert failed.exit_code == 2
        assert words in failed.output
