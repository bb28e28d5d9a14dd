"""Exports: what ships computes what was trained, a new format is one file, and a failed export leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import bottega
from bottega import exporting
from bottega.errors import ModelError, RecipeError, RunError
from making import write_jsonl

ROWS = [{"prompt": f"the {word} ", "completion": "sat on the mat"} for word in ("cat", "dog", "tree", "mat")]
LABELLED = [{"text": f"the {word} sat", "label": label} for word, label in [("cat", "a"), ("dog", "b")] * 4]

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


def train(base: Path, out: Path, rows: list[dict[str, Any]] = ROWS, **changes: Any) -> Path:
    recipe = {
        "model": {"base": str(base), "dtype": "float32"},
        "objective": {"kind": "sft"},
        "data": {"train": str(write_jsonl(out.with_suffix(".jsonl"), rows))},
        "optim": {"steps": 6, "examples": 4, "lr": 5e-2},
        **changes,
    }
    list(bottega.train(bottega.Recipe.parse(recipe), out=out))
    return out


@pytest.mark.parametrize("adapter", [None, {"rank": 2}], ids=["full", "lora"])
def test_what_ships_is_what_was_trained(adapter: dict[str, int] | None, llama: Path, tmp_path: Path) -> None:
    run = train(llama, tmp_path / "run", adapter=adapter)
    result = bottega.export(run, tmp_path / "shipped")
    assert result.proof.difference < 1e-4
    assert result.proof.agreement == 1
    assert result.proof.rows == 4
    shipped = AutoModelForCausalLM.from_pretrained(tmp_path / "shipped", dtype=torch.float32)
    assert not any("lora" in name for name, _ in shipped.named_parameters())
    settings = bottega.Sampling(tokens=8, temperature=0)
    texts = [bottega.load(path).generate(["the cat "], settings)[0][0].text for path in (run, tmp_path / "shipped")]
    assert texts[0] == texts[1]
    base = bottega.load(llama).generate(["the cat "], settings)[0][0].text
    assert texts[0] != base, "the training changed something"


def test_a_classifier_ships_with_its_head(bert: Path, tmp_path: Path) -> None:
    run = train(bert, tmp_path / "run", LABELLED, objective={"kind": "classify"}, adapter={"rank": 2})
    bottega.export(run, tmp_path / "shipped")
    shipped = AutoModelForSequenceClassification.from_pretrained(tmp_path / "shipped")
    assert shipped.config.id2label == {0: "a", 1: "b"}


def test_nothing_is_left_of_an_export_that_computes_something_else(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
