"""`bottega files` against a server."""

from __future__ import annotations

import json
from pathlib import Path

from serving import start_with_folder
from test_jobs import call


def test_files_are_uploaded_listed_read_and_deleted(tmp_path: Path) -> None:
    with start_with_folder(tmp_path / "state") as running:
        check(f"{running.url}/v1", tmp_path)


def check(url: str, tmp_path: Path) -> None:
    file = tmp_path / "perché.jsonl"
    file.write_bytes(b'{"a": "\xc3\xa8"}\n')
    made = json.loads(call(url, "files", "create", str(file), "--json"))
    assert made["filename"] == "perché.jsonl"
    assert made["id"] in call(url, "files", "list")
    assert call(url, "files", "content", made["id"]) == '{"a": "è"}\n'
    assert call(url, "files", "delete", made["id"]) == f"{made['id']} is deleted\n"
    assert "No such File object" in call(url, "files", "content", made["id"], code=2)
