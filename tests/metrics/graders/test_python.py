"""Code that grades, in a process with limits."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bottega.errors import DataError
from bottega.metrics.graders import GradedText, UngradableError, parse_grader, python


def grade(source: str, text: str = "Siena") -> float:
    return parse_grader({"type": "python", "source": source}).grade(GradedText(text, {"city": "Siena"}))


def test_its_function_reads_the_answer_and_the_row() -> None:
    source = "import math\nprint('to nobody')\ndef grade(sample, item):\n"
    source += " return math.sqrt(4) * (sample['output_text'] == item['city'])\n"
    assert [grade(source, text) for text in ("Siena", "Pisa")] == [2.0, 0.0]
    parsed = "def grade(sample, item):\n return sample['output_json']['score']\n"
    assert grade(parsed, '{"score": 0.5}') == 0.5


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def grade(sample, item):\n return item['nope']", "KeyError: 'nope'"),
        ("def grade(sample, item):\n return 'good'", "ValueError: could not convert"),
        ("def grade(sample, item):\n return float('nan')", "the grade is nan"),
        ("grade = 3", "TypeError"),
        ("def grade(sample, item):\n import os\n os._exit(0)", "ended without an answer"),
        ("def grade(sample, item):\n return len(bytearray(3 << 30))", "MemoryError"),
        ("import pathlib\ndef grade(sample, item):\n return pathlib.Path('file').write_text('a')", "OSError"),
    ],
)
def test_code_that_goes_wrong_is_told_of(source: str, reason: str) -> None:
    with pytest.raises(UngradableError) as raised:
        grade(source)
    assert raised.value.flag == "python_grader_runtime_error"
    assert reason in raised.value.reason


def test_code_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of computing by the system, of waiting by the clock, and what it has started with it."""
    monkeypatch.setattr(python, "CPU_SECONDS", 1)
    with pytest.raises(UngradableError, match="used more than 1 seconds"):
        grade("def grade(sample, item):\n while True: pass")
    # What it started and left alone holds its channel open, and is not waited for.
    source = "import subprocess\ndef grade(sample, item):\n"
    source += " subprocess.Popen(['sleep', '20'], close_fds=False, start_new_session=True)\n return 0.5"
    began = time.monotonic()
    assert grade(source) == 0.5
    assert time.monotonic() - began < 10
    monkeypatch.setattr(python, "WALL_SECONDS", 1)
    with pytest.raises(UngradableError, match="more than 1"):
        grade("import subprocess\ndef grade(sample, item):\n subprocess.run(['sleep', '60'], close_fds=False)")


def test_what_is_no_grader_is_refused() -> None:
    for source, words in (("def grade(", "not Python"), ("def score(a, b): return 1", "no function grade")):
        with pytest.raises(DataError, match=words):
            parse_grader({"type": "python", "source": source})
    combined = {"type": "multi", "graders": {"a": {"type": "python", "source": "grade = 1"}}, "calculate_output": "a"}
    assert parse_grader(combined).runs_code
