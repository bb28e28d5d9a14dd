"""A grader in Python: the function `grade(sample, item)` of a text, run in a process of its own, with limits.

The limits keep code that goes wrong from taking the machine with it. They are no prison: it can read what the user can
read, so a server runs it only where its operator allows it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any, Literal

from pydantic import Field, field_validator

from bottega.metrics.graders import GradedText, Grader, UngradableError

# Seconds of computing, and of everything; bytes of memory; letters of a source.
CPU_SECONDS, WALL_SECONDS, MEMORY, MAX_SOURCE = 10, 30, 2 << 30, 256 << 10

# The most bytes that are read of what the process answers.
MAX_ANSWER = 1 << 14

# What the process runs. It cannot raise its limits again, and its answer has a channel that printing does not reach.
RUNNER = """
import json, resource, signal, sys
channel, cpu, memory, wall = map(int, sys.argv[1:])
signal.alarm(wall)
for kind, limit in ((resource.RLIMIT_CPU, cpu), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0),
                    (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(kind, (limit, limit))
given = json.load(sys.stdin)
try:
    scope = {"__name__": "grader"}
    exec(compile(given["source"], "grader.py", "exec"), scope)
    answer = {"grade": float(scope["grade"](given["sample"], given["item"]))}
except BaseException as error:
    answer = {"error": f"{type(error).__name__}: {error}"[:500]}
with open(channel, "w") as told:
    json.dump(answer, told)
"""


class PythonGrader(Grader):
    """What `grade(sample, item)` returns; `sample["output_text"]` is the answer, `item` the row."""

    type: Literal["python"]
    source: str = Field(min_length=1, max_length=MAX_SOURCE)
    # The image of the hosted service; here code runs with the packages that are installed.
    image_tag: str | None = None

    @field_validator("source")
    @classmethod
    def _check_source(cls, source: str) -> str:
        try:
            compile(source, "grader.py", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"not Python: {error}") from None
        if "grade" not in source:
            raise ValueError("it has no function grade(sample, item)")
        return source

    @property
    def runs_code(self) -> bool:
        return True

    def grade(self, text: GradedText) -> float:
        if os.name != "posix":
            raise UngradableError("python_grader_server_error", "this system cannot limit a process")
        given = {"source": self.source, "sample": text.sample, "item": dict(text.item)}
        answer = _run(json.dumps(given).encode())
        if "grade" not in answer:
            raise UngradableError("python_grader_runtime_error", str(answer.get("error", "it gave no grade")))
        if not isinstance(answer["grade"], float) or not math.isfinite(answer["grade"]):
            raise UngradableError("python_grader_runtime_error", f"the grade is {answer['grade']}")
        return float(answer["grade"])


def _run(given: bytes) -> dict[str, Any]:
    """What the process answers."""
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-c", RUNNER, str(writing), str(CPU_SECONDS), str(MEMORY), str(WALL_SECONDS)]
    os.set_blocking(reading, False)
    with tempfile.TemporaryDirectory() as folder, open(reading, "rb", buffering=0) as channel:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
                env={}, pass_fds=(writing,), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(writing)
        try:
            process.communicate(given, timeout=WALL_SECONDS)
        except subprocess.TimeoutExpired:
            return {"error": f"it took more than {WALL_SECONDS} seconds"}
        finally:
            # What it has started goes with it.
            _kill(process)
        # What it has answered is there by now; something that it started may hold the channel open for ever.
        told = channel.read(MAX_ANSWER) or b""
    try:
        return dict(json.loads(told))
    except (ValueError, TypeError, RecursionError):
        return {"error": f"it used more than {CPU_SECONDS} seconds or {MEMORY >> 30} GiB, or ended without an answer"}


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
