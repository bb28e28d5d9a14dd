"""Exports are proved before they get their name; a new format is one file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import bottega
from bottega import exporting
from bottega.errors import ModelError, RecipeError, RunError
from bottega.exporting._export import PROOF_FILE, compare
from bottega.exporting._source import compute_logits, open_trained, plain_row
from bottega.runs.atomic_files import verify_folder

NUMPY_FORMAT = '''
from typing import ClassVar

import numpy as np

from bottega.exporting import ExportFormat


class Logits(ExportFormat):
    """A table of next-token logits after each single token: all that a unigram engine could run."""

    title: ClassVar[str] = "table of logits"
    tolerance: ClassVar[float] = 1e9

    def write(self, model, folder):
        head = model.merged(__import__("torch").float32).get_output_embeddings()
        np.save(folder / "head.npy", head.weight.detach().numpy())

    def open(self, model, folder):
        table = np.load(folder / "head.npy")
        return lambda row: table[row.tokens] @ table.T
'''


def test_nothing_is_left_of_an_export_that_computes_something_else(
    train: Callable[..., Path], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bottega.exporting.merged import Merged

    run, out = train(llama, tmp_path / "run", adapter={"rank": 2}), tmp_path / "shipped"
    write = Merged.write

    def damaged(self: Merged, model: Any, folder: Path) -> None:
        write(self, model, folder)
        weights = load_file(folder / "model.safetensors")
        name = next(name for name in weights if "up_proj" in name)
        save_file({**weights, name: weights[name].flip(0).contiguous()}, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(Merged, "write", damaged)
    with pytest.raises(ModelError, match="differs from what was trained"):
        bottega.export(run, out)
    assert not out.exists()
    assert not list(tmp_path.glob("*partial*"))


def test_wrong_arguments(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown export format 'mergd'(?s:.*)merged"):
        bottega.export(llama, tmp_path / "out", format="mergd")
    with pytest.raises(RunError, match="already exists"):
        bottega.export(llama, llama)


def test_a_new_format_is_one_file(llama: Path, tmp_path: Path, plug_in: Callable[..., None]) -> None:
    plug_in(exporting, "logits", NUMPY_FORMAT)
    result = bottega.export(llama, tmp_path / "out", format="logits")
    assert result.format == "logits"
    assert np.load(tmp_path / "out" / "head.npy").ndim == 2
    assert result.proof.difference > 0, "a table of unigrams is not the model, and the proof measures that"


def test_a_proof_measures_how_far_an_engine_is_off(llama: Path) -> None:
    model = open_trained(str(llama))
    rows = [plain_row(np.arange(5, 12)), plain_row(np.arange(40, 43))]
    _, network = model.reference()
    exact = compare(model, lambda row: compute_logits(network, row), rows)
    assert (exact.rows, exact.tokens, exact.difference, exact.agreement) == (2, 10, 0, 1)
    assert exact.kl == pytest.approx(0, abs=1e-9)
    shifted = compare(model, lambda row: compute_logits(network, row) + 0.5, rows)
    assert shifted.difference == pytest.approx(0.5)
    assert shifted.kl == pytest.approx(0, abs=1e-6), "a constant changes no probability"
    other = compare(model, lambda row: -compute_logits(network, row), rows)
    assert other.kl > 0.1
    assert other.agreement < 0.5


def test_a_model_without_a_run_is_exported_with_its_proof(llama: Path, tmp_path: Path) -> None:
    result = bottega.export(llama, tmp_path / "out")
    assert (result.folder, result.format, result.proof.rows) == (tmp_path / "out", "merged", 1)
    assert result.bytes == sum(path.stat().st_size for path in result.folder.rglob("*") if path.is_file())
    document = json.loads((result.folder / PROOF_FILE).read_text())
    assert document == {"format": "merged", "trained": str(llama), "proof": asdict(result.proof)}
    assert verify_folder(result.folder) == ""
