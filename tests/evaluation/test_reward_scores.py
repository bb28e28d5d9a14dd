"""Generated answers scored by the rewards of the run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import bottega
from bottega.evaluation.context import EvaluationContext
from bottega.evaluation.evaluate import evaluate
from bottega.evaluation.reward_scores import GeneratedAnswer, reward_scores
from bottega.inference.generator import Writer
from bottega.recipe.schema import Recipe
from bottega.records import Posed
from bottega.sampling import Sampling
from making import make_model, write_jsonl

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<over>{% endfor %}"
TEXT_ENDS = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"
LENGTH = {"kind": "length", "free": 2, "most": 6, "weight": 2.0}
PATTERN = {"kind": "pattern", "pattern": "red"}


def context(*rewards: dict[str, Any]) -> EvaluationContext:
    """What scores need of an evaluation: the rewards, and prompts at the rows 1 to 3, the last one a spare."""
    document = {
        "model": {"base": "m"},
        "data": {"train": "rows.jsonl"},
        "objective": {"kind": "grpo", "rewards": list(rewards)},
    }
    prompts = [Posed(f"row {number}", "which?") for number in (1, 2, 3)]
    tokenizer = SimpleNamespace(encode=lambda text, add_special_tokens: text.split())
    return cast(
        EvaluationContext,
        SimpleNamespace(
            recipe=Recipe.parse(document),
            records=prompts[:2],
            spares=prompts[2:],
            tokenizer=tokenizer,
            judges=None,
        ),
    )


def test_the_reward_is_the_weighted_sum_of_its_parts() -> None:
    answers = [GeneratedAnswer("red", 4), None, GeneratedAnswer("blue", 100, ended=False), GeneratedAnswer("red", 1)]
    total, length, pattern = reward_scores(context(LENGTH, PATTERN), ["row 1", "row 2", "row 3", None], answers)
    assert [scores.metric for scores in (total, length, pattern)] == ["reward", "reward/length", "reward/pattern"]
    # No answer, and no record, are unknown.
    assert length.each == pytest.approx(np.array([-0.5, np.nan, -1.0, np.nan]), nan_ok=True)
    assert pattern.each == pytest.approx(np.array([1.0, np.nan, 0.0, np.nan]), nan_ok=True)
    assert total.each == pytest.approx(np.array([0.0, np.nan, -2.0, np.nan]), nan_ok=True)


def test_a_single_reward_has_no_parts_and_tokens_are_counted_by_the_run_where_unknown() -> None:
    (scores,) = reward_scores(context(LENGTH), ["row 1"], [GeneratedAnswer("one two three")])
    assert scores.metric == "reward"
    assert scores.each == pytest.approx([2.0 * -(3 + 1 - 2) / 4])


def test_without_answers_there_are_no_scores() -> None:
    assert reward_scores(context(LENGTH), ["row 1"], [None]) == []


def test_answers_stop_at_the_strings_of_the_recipe_and_at_an_end_of_turn_that_is_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = str(write_jsonl(tmp_path / "rows.jsonl", [{"prompt": [{"role": "user", "content": "the cat"}]}] * 2))
    document = {
        "model": {"base": str(make_model(tmp_path / "base", template=TEXT_ENDS)), "dtype": "float32"},
        "data": {"train": rows, "validation": rows},
        "objective": {
            "kind": "grpo",
            "rewards": {"kind": "length", "free": 0, "most": 4},
            "group": 2,
            "tokens": 4,
            "stop": ["tree"],
        },
        "optim": {"steps": 1, "examples": 2},
        "evaluate": None,
    }
    list(bottega.train(Recipe.parse(document), tmp_path / "run"))
    stops, write = list[tuple[str, ...]](), Writer.write

    def record_stops(self: Writer, ids: Any, settings: Sampling, **more: Any) -> Any:
        stops.append(settings.stop)
        return write(self, ids, settings, **more)

    monkeypatch.setattr(Writer, "write", record_stops)
    assert evaluate(tmp_path / "run", against=[]).estimates
    assert set(stops) == {("tree", "<over>")}
