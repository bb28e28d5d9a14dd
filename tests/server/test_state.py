"""What the server remembers."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

import bottega
from bottega.server.state import State, StoredFile, find


def file(number: int, **more: object) -> StoredFile:
    values: dict[str, object] = {
        "id": f"file-{number}",
        "filename": "a",
        "purpose": "fine-tune",
        "bytes": 1,
        "digest": "d",
    }
    return StoredFile(**{**values, **more})


def test_rows_are_found_and_listed_in_pages(tmp_path: Path) -> None:
    state = State(tmp_path)
    for number in range(5):
        state.add(file(number, purpose="evals" if number == 2 else "fine-tune"))
    assert state.get(StoredFile, "file-3") is not None
    assert state.get(StoredFile, "file-9") is None
    rows, more = state.page(StoredFile, limit=2, after=None)
    assert ([row.id for row in rows], more) == (["file-4", "file-3"], True)
    rows, more = state.page(StoredFile, limit=9, after="file-3")
    assert ([row.id for row in rows], more) == (["file-2", "file-1", "file-0"], False)
    rows, _ = state.page(StoredFile, limit=9, after="file-1", ascending=True, purpose="fine-tune")
    assert [row.id for row in rows] == ["file-3", "file-4"]
    with pytest.raises(KeyError):
        state.page(StoredFile, limit=1, after="file-9")
    state.close()


def test_a_transaction_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    state = State(tmp_path)

    def fail() -> None:
        with state.transaction() as session:
            session.add(file(1))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state.get(StoredFile, "file-1") is None
    state.add(file(2))
    state.close()
    again = State(tmp_path)
    with again.transaction() as session:
        assert find(session, StoredFile, "file-2") is not None
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    again.close()


def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(bottega.DiskError, match="cannot be opened"):
        State(tmp_path / "nowhere")
