"""Questions put to the run and to baselines in the same words: prompts, examples, votes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

import bottega
from bottega.evaluation.baselines import Baseline
from bottega.evaluation.context import EvaluationContext
from bottega.evaluation.exam import _note_random_context, vote
from bottega.evaluation.retrieval import Bm25Retriever
from bottega.recipe.schema import Recipe
from bottega.records import Message
from making import make_model, write_jsonl

ASKED = [{"role": "user", "content": "the cat"}]
TALKS = [{"messages": [*ASKED, {"role": "assistant", "content": said}]} for said in ("sat", "ran")]


def train_on(folder: Path, base: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    file = str(write_jsonl(folder / "rows.jsonl", rows))
    document = {
        "model": {"base": str(base), "dtype": "float32"},
        "data": {"train": file, "validation": file, **more.pop("data", {})},
        "objective": {"kind": "sft"},
        "optim": {"steps": 1, "examples": 2},
        "evaluate": None,
    }
    list(bottega.train(Recipe.parse(document | more), folder / "run"))
    return folder / "run"


def test_the_chat_template_of_the_recipe_is_used_for_the_base_model_too(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", max_position_embeddings=256)
    run = train_on(tmp_path, base, TALKS, data={"template": "chatml"})
    model = bottega.load(run)
    with model.untuned() as untuned:
        assert untuned.codec.encode_prompt((Message("user", "the cat"),)) == model.codec.encode_prompt(
            (Message("user", "the cat"),)
        )
        assert "<|im_start|>" in untuned.codec.tokenizer.chat_template
    assert "<|im_start|>" not in bottega.load(base).codec.tokenizer.chat_template


def test_examples_picked_at_random_are_noted() -> None:
    notes = list[tuple[str, str]]()
    context = cast(EvaluationContext, SimpleNamespace(note=lambda *note: notes.append(note)))
    _, similarity = Bm25Retriever(["one two", "two three", "four"]).nearest(["two", "five", "one two four"], 3)
    _note_random_context(context, Baseline("few-shot", None, "few-shot"), similarity, "training rows")
    why = "2 of 3 questions share a word with fewer than 3 training rows; the others in its prompt are picked at random"
    assert notes == [("few-shot", why)]
    _note_random_context(context, Baseline("few-shot", None, "few-shot"), similarity[2:], "training rows")
    assert len(notes) == 1


def test_the_nearest_rows_vote_by_their_similarity() -> None:
    answers = ["red", "blue", "blue", "green"]
    indices = np.array([[0, 1, 2], [0, 1, 2], [3, 0, 1]])
    similarity = np.array([[5.0, 2.0, 2.0], [5.0, 3.0, 3.0], [0.0, 0.0, 0.0]], np.float32)
    assert vote(answers, indices, similarity) == ["red", "blue", "blue"], (
        "the most frequent answer where no row is similar"
    )
