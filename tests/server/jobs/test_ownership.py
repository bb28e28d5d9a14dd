"""Servers that share a folder know which of them are there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bottega.server.jobs.ownership import ServerMark

HOLD = "import sys, pathlib; from bottega.server.jobs.ownership import ServerMark as M\n"
HOLD += "mark = M(pathlib.Path(sys.argv[1])); print(mark.id, flush=True); sys.stdin.read()"


def test_a_server_is_there_until_its_process_ends(tmp_path: Path) -> None:
    mark = ServerMark(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        assert mark.is_alive(name)
        assert mark.is_alive(mark.id)
        other.kill()
        other.wait()
    assert not mark.is_alive(name)
    assert not mark.is_alive("nobody")
    second = ServerMark(tmp_path)
    mark.close()
    assert not second.is_alive(mark.id)
    assert [path.stem for path in tmp_path.iterdir()] == [second.id]
    second.close()
