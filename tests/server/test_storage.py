"""Bytes on disk by their checksum, each file complete or absent."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bottega.server.errors import ApiError
from bottega.server.storage import FORGOTTEN_SECONDS, PARTIAL, Storage


async def pieces(*data: bytes | Exception) -> AsyncIterator[bytes]:
    for one in data:
        if isinstance(one, Exception):
            raise one
        yield one


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_has_the_name_of_its_contents(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    digest, size = asyncio.run(storage.write(pieces(b"one ", b"two")))
    assert (digest, size) == (hashlib.sha256(b"one two").hexdigest(), 7)
    assert storage.path(digest).read_bytes() == b"one two"
    assert storage.write_bytes(b"one two") == (digest, 7)
    assert files(tmp_path) == [digest]
    storage.remove(digest)
    assert files(tmp_path) == []


def test_nothing_is_left_of_what_was_not_complete(tmp_path: Path) -> None:
    storage = Storage(tmp_path, max_bytes=5)
    for data, error in (((b"123", b"456"), ApiError), ((), ApiError), ((b"1", OSError()), OSError)):
        with pytest.raises(error):
            asyncio.run(storage.write(pieces(*data)))  # type: ignore[arg-type]
    assert files(tmp_path) == []


def test_what_a_killed_server_left_is_removed(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    kept, forgotten = (storage.write_bytes(data)[0] for data in (b"a", b"b"))
    half = tmp_path / f"{PARTIAL}x"
    half.write_bytes(b"c")
    fresh = storage.write_bytes(b"d")[0]
    for path in (half, storage.path(kept), storage.path(forgotten)):
        os.utime(path, (0, path.stat().st_mtime - 2 * FORGOTTEN_SECONDS))
    storage.clean({kept})
    assert files(tmp_path) == sorted([kept, fresh])
