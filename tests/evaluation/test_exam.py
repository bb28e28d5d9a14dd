"""The run and what it was tuned from are asked in the same words, and stop at the same end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.evaluation.evaluate import evaluate
from bottega.inference.generator import Writer
from bottega.recipe.schema import Recipe
from bottega.records import Message
from bottega.sampling import Sampling
from making import make_model, write_jsonl

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<over>{% endfor %}"
TEXT_ENDS = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"
ASKED = [{"role": "user", "content": "the cat"}]
TALKS = [{"messages": [*ASKED, {"role": "assistant", "content": said}]} for said in ("sat", "ran")]


def trained(folder: Path, base: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
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


def test_a_template_that_the_recipe_names_is_the_bases_too(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", max_position_embeddings=256)
    run = trained(tmp_path, base, TALKS, data={"template": "chatml"})
    model = bottega.load(run)
    with model.untuned() as untuned:
        assert untuned.codec.encode_prompt((Message("user", "the cat"),)) == model.codec.encode_prompt(
            (Message("user", "the cat"),)
        )
        assert "<|im_start|>" in untuned.codec.tokenizer.chat_template
    assert "<|im_start|>" not in bottega.load(base).codec.tokenizer.chat_template


def test_answers_that_are_rewarded_stop_at_an_end_of_turn_that_is_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_model(tmp_path / "base", template=TEXT_ENDS)
    objective = {
        "kind": "grpo",
        "rewards": {"kind": "length", "free": 0, "most": 4},
        "group": 2,
        "tokens": 4,
        "stop": ["tree"],
    }
    run = trained(tmp_path, base, [{"prompt": ASKED}] * 2, objective=objective)
    told, write = list[tuple[str, ...]](), Writer.write

    def noted(self: Writer, ids: Any, settings: Sampling, **more: Any) -> Any:
        told.append(settings.stop)
        return write(self, ids, settings, **more)

    monkeypatch.setattr(Writer, "write", noted)
    assert evaluate(run, against=[]).estimates
    assert set(told) == {("tree", "<over>")}
