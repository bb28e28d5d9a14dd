"""Lists in pages: `routes/test_files.py` and `routes/test_fine_tuning.py` read them with the client."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bottega.server.errors import ApiError
from bottega.server.pages import page_document
from bottega.server.state import State, StoredFile


def test_a_page_says_whether_there_are_more(tmp_path: Path) -> None:
    state = State(tmp_path)
    request: Any = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(tables=state)))
    empty = page_document(request, StoredFile, lambda file: {"id": file.id}, after=None, limit=2)
    assert empty == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}
    for number in range(3):
        state.add(StoredFile(id=f"file-{number}", filename="a", purpose="evals", bytes=1, digest="d"))
    page = page_document(request, StoredFile, lambda file: {"id": file.id}, after=None, limit=2)
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, "file-2", "file-1")
    with pytest.raises(ApiError, match="no 'file-9'"):
        page_document(request, StoredFile, lambda file: {"id": file.id}, after="file-9", limit=2)
    state.close()
