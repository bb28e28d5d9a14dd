"""`bottega.load` returns the class that can use what a run trained, or what a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.errors import ModelError
from making import write_jsonl

TEXTS = ("the cat sat", "the dog ran", "a tree fell", "a mat lay")
ROWS: dict[str, list[dict[str, Any]]] = {
    "sft": [{"prompt": text, "completion": " on the mat"} for text in TEXTS],
    "masked": [{"text": text} for text in TEXTS],
    "classify": [{"text": text, "label": "ab"[index % 2]} for index, text in enumerate(TEXTS)],
    "tag": [{"tokens": text.split(), "tags": ["O", "B-x", "O"]} for text in TEXTS],
    "contrastive": [{"anchor": text, "positive": text.replace("the", "a")} for text in TEXTS],
}
CLASSES = {
    "sft": "LanguageModel",
    "masked": "MaskedModel",
    "classify": "Classifier",
    "tag": "Tagger",
    "contrastive": "Embedder",
}


@pytest.mark.parametrize("kind", CLASSES)
def test_a_run_is_loaded_as_what_it_was_trained_for(kind: str, llama: Path, bert: Path, tmp_path: Path) -> None:
    recipe = {
        "model": {"base": str(llama if kind == "sft" else bert), "dtype": "float32"},
        "objective": {"kind": kind},
        "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", ROWS[kind]))},
        "optim": {"steps": 1, "examples": 4},
    }
    list(bottega.train(bottega.Recipe.parse(recipe), out=tmp_path / "run"))
    assert type(bottega.load(tmp_path / "run")).__name__ == CLASSES[kind]


def test_a_folder_is_loaded_by_its_config(llama: Path, tmp_path: Path) -> None:
    assert type(bottega.load(llama)).__name__ == "LanguageModel"
    with pytest.raises(ModelError, match="no such folder"):
        bottega.load(tmp_path / "nowhere")
