"""What the server remembers."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Running, start
from sqlalchemy import text

import bottega
from bottega.server.app import open_backend
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


# PostgreSQL: a real one, where Debian's package is installed

PROGRAMS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)

needs_postgresql = pytest.mark.skipif(
    PROGRAMS is None or importlib.util.find_spec("psycopg") is None, reason="no PostgreSQL, or no psycopg"
)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of an empty database of a server that runs for these tests."""
    assert PROGRAMS is not None
    # It refuses to run as root.
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="postgresql"))
    shutil.chown(folder, user)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        command = [str(PROGRAMS / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, user=user, check=True, stdout=subprocess.DEVNULL, cwd=folder)

    call("initdb", "--auth=trust", "--username=bottega", "--no-sync")
    settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", settings, "start")
    yield f"postgresql+psycopg://bottega@127.0.0.1:{port}/postgres"
    call("pg_ctl", "-m", "fast", "stop")
    shutil.rmtree(folder)


@needs_postgresql
def test_rows_in_postgresql(database: str, tmp_path: Path) -> None:
    state = State(tmp_path, database)
    for number in range(3):
        state.add(StoredFile(id=f"file-{number}", filename="è", purpose="batch", bytes=3 << 40, digest="d"))
    state.close()
    again = State(tmp_path, database)
    assert again.version() != again.version(), "it can't tell, and has to be asked"
    rows, more = again.page(StoredFile, limit=2, after=None, purpose="batch")
    assert ([row.id for row in rows], more, rows[0].bytes, rows[0].filename) == (
        ["file-2", "file-1"],
        True,
        3 << 40,
        "è",
    )
    again.close()


@needs_postgresql
def test_a_server_over_postgresql(database: str, tmp_path: Path) -> None:
    deployment = bottega.Deployment()
    backend = open_backend(tmp_path, deployment, database=database)
    url, end = start(deployment, backend=backend)
    with Running(url, deployment, tmp_path).client() as client:
        file = client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune")
        assert client.files.content(file.id).content == b"{}"
        assert file.id in {one.id for one in client.files.list(limit=1)}
        assert client.fine_tuning.jobs.list().data == []
    end()
    backend.close()
    deployment.close()


def test_the_version_of_the_tables_tells_of_every_change(tmp_path: Path) -> None:
    """Also of those of another server, and of several connections of this one."""
    state, other = State(tmp_path), State(tmp_path)
    seen = [state.version()]
    assert state.version() == seen[0]
    for number, writer in enumerate((state, other, state)):
        writer.add(file(number))
        seen.append(state.version())
        assert state.version() == seen[-1]
    assert len(set(seen)) == len(seen)
    state.close()
    other.close()
