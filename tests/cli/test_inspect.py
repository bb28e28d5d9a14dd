"""Commands that inspect data, runs and the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.cli.inspect import _error_of, _format_cell, _format_fact
from bottega.hardware import doctor
from making import make_run, make_started, make_stepped, write_jsonl

TEXT = "the cat sat on the mat and the dog ran under the tree"


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})


@pytest.fixture
def stopped_run(tmp_path: Path) -> Path:
    """The folder of a run that stopped after two updates; without weights."""
    return make_run(tmp_path / "runs" / "mine-1", make_started(), make_stepped(1), make_stepped(2, loss=1.5))


# audit


def test_an_audit_as_text_and_as_json(tmp_path: Path) -> None:
    data = str(write_jsonl(tmp_path / "rows.jsonl", [{"text": TEXT}] * 3))
    text = call("audit", data, "--only", "duplicates")
    assert text.exit_code == 0, text.output
    assert text.stdout.startswith("3 rows; ")
    assert "duplicate  2 ×" in text.stdout
    assert f"to write a cleaned copy: bottega audit {data} --fix clean.jsonl" in text.stdout
    document = json.loads(call("audit", data, "--only", "duplicates", "--json").stdout)
    assert (document["rows"], [found["kind"] for found in document["findings"]]) == (3, ["duplicate"])


def test_a_strict_audit_ends_with_2_where_a_finding_is_an_error(tmp_path: Path) -> None:
    train = str(write_jsonl(tmp_path / "train.jsonl", [{"text": TEXT}, {"text": "something else"}]))
    test = str(write_jsonl(tmp_path / "test.jsonl", [{"text": TEXT}]))
    command = ["audit", train, "--only", "duplicates"]
    assert call(*command, "--strict").exit_code == 0
    repeated = str(write_jsonl(tmp_path / "repeated.jsonl", [{"text": TEXT}] * 2))
    assert call("audit", repeated, "--only", "duplicates", "--strict").exit_code == 0, "duplicates are a warning"
    command += ["--against", test]
    assert call(*command).exit_code == 0
    assert call(*command, "--strict").exit_code == 2


def test_an_audit_writes_a_cleaned_copy_and_reads_mapped_fields(tmp_path: Path) -> None:
    data = str(write_jsonl(tmp_path / "rows.jsonl", [{"body": TEXT}] * 3))
    clean = tmp_path / "clean.jsonl"
    result = call("audit", data, "--map", "text=body", "--only", "duplicates", "--fix", str(clean))
    assert f"{clean}: 1 rows kept, 2 removed, 0 repaired" in result.stdout
    assert len(clean.read_text().splitlines()) == 1


# evaluate, advise


def test_a_folder_that_is_not_a_run_is_refused_before_rows_are_read(tmp_path: Path) -> None:
    result = call("evaluate", str(tmp_path), "--data", "nowhere.jsonl")
    assert result.exit_code == 2
    assert "not a run folder" in result.stderr


def test_the_error_of_a_function_is_returned() -> None:
    error = bottega.RunError("full")

    def fail() -> None:
        raise error

    assert _error_of(fail) is error
    assert _error_of(lambda: None) is None


def test_advice_on_rows_that_are_missing_is_an_error(tmp_path: Path) -> None:
    result = call("advise", str(tmp_path / "none.jsonl"), "--model", str(tmp_path / "model"))
    assert result.exit_code == 2
    assert "no such file" in result.stderr


# show, runs


def test_a_run_is_shown(stopped_run: Path) -> None:
    result = call("show", str(stopped_run))
    assert result.exit_code == 0, result.output
    assert "update 2 of 40" in result.stdout
    document = json.loads(call("show", str(stopped_run), "--json").stdout)
    assert (document["name"], document["step"], len(document["history"])) == ("mine", 2, 3)


def test_runs_are_listed(stopped_run: Path) -> None:
    folder = str(stopped_run.parent)
    lines = call("runs", folder).stdout.splitlines()
    assert lines[0].split() == ["run", "status", "step", "steps", "loss", "validation", "loss"]
    assert lines[1].split()[2:] == ["2", "40", "1.5000"]
    assert lines[2] == f"inspect one: bottega show {stopped_run}"
    (summary,) = json.loads(call("runs", folder, "--json").stdout)
    assert (summary["run"], summary["loss"], summary["validation_loss"]) == (str(stopped_run), 1.5, None)


def test_a_folder_without_runs_says_how_to_start_one(tmp_path: Path) -> None:
    result = call("runs", str(tmp_path))
    assert result.stdout == f"no runs in {tmp_path}; start one: bottega train recipe.yaml\n"
    assert call("runs", str(tmp_path), "--json").stdout == "[]\n"


@pytest.mark.parametrize(("value", "text"), [(None, ""), (0.12345, "0.1235"), (3, "3"), ("finished", "finished")])
def test_cells_of_the_list_of_runs(value: object, text: str) -> None:
    assert _format_cell(value) == text


# doctor


def test_doctor_reports_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MEASURED_SECONDS", 0.01)
    result = call("doctor", "--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 0
    assert facts["gflops"]["float32"] > 0
    assert facts["versions"]["bottega"]
    # Measured once: what is printed is the same.
    monkeypatch.setattr(bottega, "doctor", lambda: facts | {"advice": ["buy a GPU"]}, raising=False)
    lines = call("doctor").stdout.splitlines()
    assert f"versions bottega {facts['versions']['bottega']}".split() in [line.split() for line in lines]
    assert lines[-1] == "advice buy a GPU"


@pytest.mark.parametrize(("value", "text"), [(None, "none"), (True, "yes"), (False, "no"), (1.25, "1.2"), (8, "8")])
def test_facts_are_put_in_words(value: object, text: str) -> None:
    assert _format_fact(value) == text
