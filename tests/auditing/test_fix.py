"""The cleaned copy of the audited rows, and the log of what was changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bottega
from bottega.auditing.findings import Audit, Finding, Mend
from bottega.auditing.fix import check_output_path, log_path, write_cleaned_copy
from bottega.auditing.reader import select_rows
from bottega.errors import DataError
from bottega.recipe.schema import Layout
from making import random_rows, write_jsonl


def kinds(found: Audit) -> list[str]:
    return [one.kind for one in found.findings]


def test_a_cleaned_copy(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = [{**row, "n": n} for n, row in enumerate(random_rows(10))]
    told += [
        {**told[3], "n": 10},
        {**told[4], "completion": "perch\u00c3\u00a9 no, it was. " + told[5]["completion"], "n": 11},
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", told)
    path.write_text(path.read_text() + '{"prompt": \n')
    before = path.read_bytes()
    test = write_jsonl(tmp_path / "test.jsonl", told[:2])
    found = bottega.audit(path, against=[test], skip=["near_duplicates"], fix=tmp_path / "clean.jsonl")
    assert path.read_bytes() == before
    kept = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text().splitlines()]
    assert [row["n"] for row in kept] == [2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert kept[-1]["completion"].startswith("perché no")
    log = [json.loads(line) for line in (tmp_path / "clean.log.jsonl").read_text().splitlines()]
    assert [(one["row"], one["action"], one["why"].partition(":")[0]) for one in log] == [
        ("rows.jsonl line 1", "removed", "leak"),
        ("rows.jsonl line 2", "removed", "leak"),
        ("rows.jsonl line 11", "removed", "duplicate"),
        ("rows.jsonl line 12", "repaired", "mojibake"),
        ("rows.jsonl line 13", "removed", str(path) + " line 13"),
    ]
    assert found.cleaned == (9, 4, 1)
    clean = bottega.audit(tmp_path / "clean.jsonl", against=[test], skip=["near_duplicates"])
    assert kinds(clean) == ["contradiction"]


def test_the_log_stands_beside_the_copy(tmp_path: Path) -> None:
    assert log_path(tmp_path / "clean.jsonl") == tmp_path / "clean.log.jsonl"
    check_output_path(tmp_path / "clean.jsonl")
    (tmp_path / "clean.log.jsonl").touch()
    with pytest.raises(DataError, match="already exists") as caught:
        check_output_path(tmp_path / "clean.jsonl")
    assert str(caught.value.where).endswith("clean.log.jsonl")


def cleaned(folder: Path, rows: list[Any], *findings: Finding) -> tuple[tuple[int, int, int], list[Any], list[Any]]:
    """(counts, rows of the copy, lines of the log) of rows with these findings."""
    path = write_jsonl(folder / "rows.jsonl", rows)
    train, _ = select_rows([str(path)], [], "auto", {}, Layout())
    counts = write_cleaned_copy(folder / "clean.jsonl", train, findings)
    copy, log = (folder / name for name in ("clean.jsonl", "clean.log.jsonl"))
    return counts, *([json.loads(line) for line in file.read_text().splitlines()] for file in (copy, log))


def finding(kind: str, mend: Mend | None, *rows: int) -> Finding:
    return Finding(kind, "error", "what", "fix", len(rows), [], mend, np.array(rows))


def test_removal_overrides_repair(tmp_path: Path) -> None:
    rows = [{"text": f"perchÃ© {n}"} for n in range(4)]
    findings = [finding("duplicate", "remove", 1), finding("mojibake", "repair", 1, 2), finding("quality", None, 3)]
    counts, copy, log = cleaned(tmp_path, rows, *findings)
    assert counts == (3, 1, 1)
    assert copy == [rows[0], {"text": "perché 2"}, rows[3]]
    assert [(line["row"], line["action"], line["why"]) for line in log] == [
        ("rows.jsonl line 2", "removed", "duplicate"),
        ("rows.jsonl line 3", "repaired", "mojibake"),
    ]


def test_every_text_within_a_row_is_repaired(tmp_path: Path) -> None:
    row = {"perchÃ©": ["Ã¨", {"a": "b\x07"}], "n": 1, "half": "\ud800"}
    _, copy, _ = cleaned(tmp_path, [row], finding("mojibake", "repair", 0))
    assert copy == [{"perchÃ©": ["è", {"a": "b"}], "n": 1, "half": "\ud800"}]


def test_a_copy_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}])
    train, _ = select_rows([str(path)], [], "auto", {}, Layout())
    with pytest.raises(DataError, match="the cleaned copy cannot be written"):
        write_cleaned_copy(tmp_path / "none" / "clean.jsonl", train, [])
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
