"""The report of a run: what it is built from, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from making import write_jsonl

# Options of an evaluation that generates nothing and has no baseline but the base.
LOSSES = ["--against", "none", "--answers", "0"]


def test_the_audit_and_the_loss_summary(run: Path, report_text: Callable[[str], str]) -> None:
    document = json.loads(report_text("json"))
    assert {one["kind"] for one in document["audit"]["findings"]} >= {"duplicate"}
    assert "quality" in document["audit"]["unchecked"]
    assert document["fit"][0].startswith("At the end, the validation loss is ")
    assert "Audit of the training data" in report_text("md")
    assert "the same row again" in report_text("html")


def test_a_folder_that_cannot_be_written_is_an_error(
    run: Path, report_text: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    shown = CliRunner().invoke(app, ["evaluate", str(run), *LOSSES, "--report", str(tmp_path / "file" / "there")])
    assert shown.exit_code == 2
    assert "the report cannot be written" in shown.output
    assert "--report DIR" in shown.output


def test_training_data_that_is_gone_is_reported_as_not_checked(run: Path, tmp_path: Path) -> None:
    """Other rows can be evaluated all the same."""
    told = [{"prompt": f"is {n} a cat?", "completion": " big"} for n in range(12)]
    rows, there = str(write_jsonl(tmp_path / "other.jsonl", told)), run.parent / "rows.jsonl"
    there.rename(run.parent / "away.jsonl")
    try:
        report = bottega.report(run, rows, out=tmp_path, against=[], answers=0)
    finally:
        (run.parent / "away.jsonl").rename(there)
    assert report.evaluation.leaked is None
    assert report.audit is None
    assert "the data is no longer available here" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_report_on_other_rows_is_written_only_on_request(run: Path, tmp_path: Path) -> None:
    told = [{"prompt": f"the cat {n}", "completion": " sat"} for n in range(12)]
    rows = str(write_jsonl(tmp_path / "other.jsonl", told))
    before = (run / "report.json").read_bytes()
    assert CliRunner().invoke(app, ["evaluate", str(run), *LOSSES, "--data", rows]).exit_code == 0
    assert (run / "report.json").read_bytes() == before
    asked = ["evaluate", str(run), *LOSSES, "--data", rows, "--report", str(tmp_path / "there"), "--json"]
    assert json.loads(CliRunner().invoke(app, asked).stdout)["rows"] == 12
    assert json.loads((tmp_path / "there" / "report.json").read_text())["rows"] == 12
    assert bottega.report(run, rows, against=[], answers=0).evaluation.rows == 12
