"""A run over rows of every format there is, from a file as others write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.recipe.schema import Recipe
from bottega.records.formats import format_names
from making import make_model

ASKED = {"role": "user", "content": "the cat"}
TOOL = {"type": "function", "function": {"name": "find"}}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": ("sft", {"messages": [ASKED, {"role": "assistant", "content": "sat", "weight": 1}], "tools": [TOOL]}),
    "instruction": ("sft", {"instruction": "the cat", "input": "red", "output": "sat"}),
    "question": ("sft", {"question": "the cat", "answer": "sat"}),
    "summary": ("sft", {"document": "the cat sat on the mat", "summary": "cat sat"}),
    "prompted": ("sft", {"prompt": "the cat", "completion": " sat"}),
    "preference": ("dpo", {"prompt": "the cat", "chosen": " sat", "rejected": " ran"}),
    "openai_preference": (
        "reward",
        {
            "input": {"messages": [ASKED]},
            "preferred_output": [{"role": "assistant", "content": "sat"}],
            "non_preferred_output": [{"role": "assistant", "content": "ran"}],
        },
    ),
    "unpaired": ("sft", {"prompt": "the cat", "completion": " sat", "label": True}),
    "labelled": ("classify", {"text": "the cat", "label": "red"}),
    "labelled_pair": ("classify", {"premise": "the cat", "hypothesis": "a cat", "label": "red"}),
    "multilabelled": ("classify", {"text": "the cat", "labels": ["red", "blue"]}),
    "conll": ("tag", {"tokens": ["the", "cat"], "ner_tags": ["O", "B-animal"]}),
    "spans": ("sft", {"text": "the cat", "spans": [{"start": 4, "end": 7, "label": "animal"}]}),
    "paired": ("contrastive", {"anchor": "the cat", "positive": "a cat", "negative": "the tree"}),
    "compared": ("contrastive", {"sentence1": "the cat", "sentence2": "the dog", "score": 0.5}),
    "choice": ("sft", {"question": "the cat", "choices": ["sat", "ran"], "answer": "sat"}),
    "lettered_choice": ("sft", {"question": "the cat", "A": "sat", "B": "ran", "answer": "A"}),
    "posed": ("grpo", {"question": "the cat", "answer": 5}),
    "text": ("causal", {"text": "the cat sat on the mat"}),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "multilabelled": {"multi_label": True},
    "posed": {"rewards": "exact", "group": 2, "tokens": 4},
}


def test_every_format_has_its_run() -> None:
    assert set(ROWS) == set(format_names())


def events(folder: Path, model: Path, data: str, kind: str, **more: Any) -> list[Any]:
    recipe = Recipe.parse(
        {
            "model": {"base": str(model), "dtype": "float32"},
            "data": {"train": data},
            "objective": {"kind": kind, **more},
            "optim": {"steps": 2, "examples": 2},
        },
        folder=folder,
    )
    return list(bottega.train(recipe, folder / "run"))


@pytest.mark.parametrize("name", ROWS)
def test_a_run_over_each_format(name: str, llama: Path, tmp_path: Path) -> None:
    kind, row = ROWS[name]
    other = {**row, "label": "blue"} if name in ("labelled", "labelled_pair") else row
    lines = "".join(json.dumps(one) + "\n" for one in (row, other, row, other))
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    # Tools are described in a prompt of their own, which takes more positions than the other rows have.
    model = make_model(tmp_path / "model", "llama", max_position_embeddings=512) if "tools" in row else llama
    seen = events(tmp_path, model, "rows.jsonl", kind, **OPTIONS.get(name, {}))
    (said,) = [event.message for event in seen if getattr(event, "subject", "") == "format"]
    assert said.endswith(f"read as {name}")
    assert seen[-1].type == "finished"


def test_a_run_over_a_file_of_tags(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "tags.conll").write_text("the O\ncat B-animal\n\nthe O\nred O\ndog B-animal\n", encoding="utf-8")
    recipe = Recipe.parse(
        {"model": {"base": str(llama)}, "data": {"train": "tags.conll"}, "objective": {"kind": "sft"}}, folder=tmp_path
    )
    shown = bottega.preview(recipe)
    said = ["".join(p.text for p in pieces if p.weight) for _, (pieces,) in shown.examples]
    assert said[0].startswith('[{"label": "animal", "text": "cat"}]')
    assert events(tmp_path, llama, "tags.conll", "sft")[-1].type == "finished"
