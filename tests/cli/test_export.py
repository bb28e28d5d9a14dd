"""The command that exports a trained model."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from bottega.cli.commands import app


def test_an_export_prints_its_size_and_its_proof(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    result = CliRunner().invoke(app, ["export", str(llama), "--to", "merged", "--out", str(out)])
    assert result.exit_code == 0, result.output
    size = sum(path.stat().st_size for path in out.rglob("*"))
    first, second, generated, last = result.stdout.splitlines()
    assert first == f"{out}: merged, fp32, {size / 1e6:.1f} MB"
    assert "the likeliest prediction is the same for 100.0%" in second
    assert generated == "48 of 48 generated tokens are the same"
    assert last == f"try it: bottega run {out} PROMPT"


def test_an_export_as_json(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    result = CliRunner().invoke(app, ["export", str(llama), "--to", "merged", "--out", str(out), "--json"])
    document = json.loads(result.stdout)
    assert (document["folder"], document["format"]) == (str(out), "merged")
    assert document["proof"]["agreement"] == 1.0


def test_an_unknown_format_and_a_missing_model_are_errors(llama: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for model, kind, words in ((str(llama), "gguff", "gguff"), (str(tmp_path / "none"), "merged", "none")):
        result = CliRunner().invoke(app, ["export", model, "--to", kind, "--out", out])
        assert result.exit_code == 2
        assert words in result.stderr
    assert not Path(out).exists()
