"""`bottega serve`: it says where, answers, and ends when asked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest


@contextmanager
def serve(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bottega", "serve", *arguments]
    settings = {**os.environ, **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_says_where_it_serves_and_ends_when_asked(llama: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    with serve(f"mine={llama}", "--port", "0", "--folder", folder, BOTTEGA_API_KEY="sk-secret") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.search(r"serving mine at (http://127\.0\.0\.1:\d+/v1)", first)
        assert found, first + (process.stderr.read() if process.stderr and process.poll() is not None else "")
        body = {"model": "mine", "prompt": "the cat", "max_tokens": 3}
        for key, status in (("sk-secret", 200), ("sk-wrong", 401)):
            headers = {"authorization": f"Bearer {key}"}
            answer = httpx2.post(f"{found[1]}/completions", json=body, headers=headers, timeout=60)
            assert answer.status_code == status
        files = httpx2.get(f"{found[1]}/files", headers={"authorization": "Bearer sk-secret"})
        assert files.json()["data"] == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
        assert "sk-secret" not in process.stdout.read()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "BOTTEGA_API_KEY"),
        (["./nowhere"], "no such folder"),
        (["a=gpt2", "a=gpt2"], "two models are called a"),
    ],
)
def test_what_cannot_be_served(arguments: list[str], words: str, tmp_path: Path) -> None:
    folder = ["--folder", str(tmp_path / "state")]
    with serve(*arguments, "--port", "0", *folder, BOTTEGA_API_KEY="") as process:
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, words in errors) == (2, True), errors
    assert not (tmp_path / "state").exists()
