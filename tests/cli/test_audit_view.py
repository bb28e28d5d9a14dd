"""The result of an audit in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bottega.auditing.findings import Audit, Finding
from bottega.cli.audit_view import MAX_BARS, SEVERITY_WIDTH, show_audit
from making import printed


def audit_of(*findings: Finding, **changes: Any) -> Audit:
    values: dict[str, Any] = {
        "rows": 1234, "against": {}, "findings": findings, "unchecked": {}, "shape": {}, "cleaned": None,
        "seconds": 0.12,
    }  # fmt: skip
    return Audit(**{**values, **changes})


def finding(**changes: Any) -> Finding:
    values: dict[str, Any] = {
        "kind": "duplicate", "severity": "warning", "what": "the same row again", "fix": "remove them", "count": 5,
        "examples": ["a line 1", "a line 2", "a line 3", "a line 4"],
    }  # fmt: skip
    return Finding(**{**values, **changes})


def test_an_audit_without_findings() -> None:
    text = printed(show_audit, audit_of(against={"test [1].jsonl": 20}), ["a.jsonl"], None)
    assert text.splitlines() == ["1,234 rows, against 20 of test [1].jsonl; 0.1 s", "", "No problems found.", ""]


def test_a_finding_shows_its_first_examples_and_what_to_do() -> None:
    text = printed(show_audit, audit_of(finding()), ["a.jsonl"], None)
    indent = " " * SEVERITY_WIDTH
    assert [line.rstrip() for line in text.splitlines()[2:7]] == [
        "warning  duplicate  5 ×",
        f"{indent}the same row again",
        f"{indent}a line 1; a line 2; a line 3 and 2 more",
        f"{indent}→ remove them",
        "",
    ]
    assert "No problems found" not in text
    assert "--fix" not in text, "nothing here can be cleaned"


def test_commands_are_not_broken_into_lines() -> None:
    command = f"bottega train {'a' * 80}/recipe.yaml"
    data = [f"{'b' * 60} c.jsonl"]
    text = printed(show_audit, audit_of(finding(fix=command, mend="remove")), data, None, width=60)
    assert f"→ {command}" in text
    assert f"to write a cleaned copy: bottega audit '{data[0]}' --fix clean.jsonl" in text


def test_the_cleaned_copy_and_its_log_are_named() -> None:
    result = audit_of(finding(mend="remove"), cleaned=(1200, 30, 4))
    text = printed(show_audit, result, ["a.jsonl"], Path("out/clean.jsonl"))
    assert "out/clean.jsonl: 1,200 rows kept, 30 removed, 4 repaired" in text
    assert "the reason for each row: out/clean.log.jsonl" in text
    assert "to write a cleaned copy" not in text


def test_statistics_are_bars_and_skipped_checks_have_a_reason() -> None:
    labels = [(f"label{number}", 2) for number in range(MAX_BARS + 3)]
    shape = {"labels": labels, "languages": [("en", 3), ("it", 1)]}
    text = printed(show_audit, audit_of(shape=shape, unchecked={"near_duplicates": "no [rows]"}), ["a.jsonl"], None)
    assert f"labels ({len(labels)})" in text
    assert sum("label" in line and "█" in line for line in text.splitlines()) == MAX_BARS
    (english,) = [line for line in text.splitlines() if line.startswith("en ")]
    assert english.split() == ["en", "█" * 30, "75.0%"]
    assert "not checked near duplicates: no [rows]" in text


@pytest.mark.parametrize("width", [40, 80])
def test_lines_break_between_words(width: int) -> None:
    words = "rows that have seventy percent or more of their text in common with another one of the same file"
    result = audit_of(finding(what=words, fix=words, count=3, examples=(words, words)), unchecked={"languages": words})
    lines = printed(show_audit, result, ["rows.jsonl"], None, width=width).splitlines()
    assert max(map(len, lines)) <= width
    for word in words.split():
        assert " ".join(lines).replace(";", "").split().count(word) >= 5
