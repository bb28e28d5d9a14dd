"""The process of a command: standard streams and the exit code."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bottega.cli import process
from bottega.cli.process import PersistentFile

COMMAND = [sys.executable, "-m", "bottega"]


@pytest.mark.parametrize(
    "arguments", [["--help"], *(pytest.param(one, marks=pytest.mark.slow) for one in (["runs"], ["runs", "--json"]))]
)
def test_a_closed_pipe_is_no_error_and_a_full_disk_is_one(arguments: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    closed = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (closed.returncode, closed.stderr) == (0, "")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "error: standard output cannot be written: No space left on device",
    )


def test_a_process_without_standard_streams_opens_no_file_in_their_place(tmp_path: Path) -> None:
    close = lambda: [os.close(number) for number in (0, 1, 2)] and None  # noqa: E731
    popen = subprocess.Popen([*COMMAND, "runs"], cwd=tmp_path, preexec_fn=close)
    assert popen.wait(60) == 0


def test_a_write_that_fails_is_accepted_and_remembered(tmp_path: Path) -> None:
    file = PersistentFile(tmp_path / "output", "w")
    assert (file.write(b"text"), file.error) == (4, None)
    file.close()
    full = PersistentFile("/dev/full", "w")
    assert full.write(b"one") == 3
    first = full.error
    assert isinstance(first, OSError)
    assert full.write(b"another") == 7
    assert full.error is first
    full.close()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (BrokenPipeError(32, "Broken pipe"), 0, ""),
        (OSError(28, "No space left on device"), 2, "error: standard output cannot be written: No space left"),
    ],
)
def test_the_exit_code_of_output_that_cannot_be_written(
    error: OSError | None, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = PersistentFile(1, "w", closefd=False)
    output.error = error
    assert process._output_exit_code(output) == code
    assert capsys.readouterr().err.startswith(message)


def test_a_stream_keeps_the_encoding_and_error_handler_of_the_one_it_replaces(tmp_path: Path) -> None:
    before = io.TextIOWrapper(io.BytesIO(), "latin-1", "replace")
    with process._text_stream(PersistentFile(tmp_path / "output", "w"), before, True) as stream:
        stream.write("già €")
        assert (stream.encoding, stream.errors, stream.line_buffering) == ("latin-1", "replace", True)
    assert (tmp_path / "output").read_bytes() == "già ?".encode("latin-1")
    with process._text_stream(PersistentFile(tmp_path / "other", "w"), None, False) as stream:
        assert (stream.encoding, stream.errors, stream.line_buffering) == ("utf-8", "backslashreplace", False)
