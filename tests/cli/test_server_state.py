"""The tables that commands open are those of the server."""

from __future__ import annotations

from pathlib import Path

from bottega.cli.server_state import open_tables
from bottega.server.state import State, StoredFile


def test_tables_are_those_of_the_folder(tmp_path: Path) -> None:
    with open_tables(tmp_path / "new", None) as tables:
        tables.add(StoredFile(id="file-1", filename="a", purpose="batch", bytes=1, digest="d"))
    state = State(tmp_path / "new")
    assert state.get(StoredFile, "file-1") is not None
    state.close()
