"""What answers are worth, and what cannot judge them; a run that learned from rewards, measured by them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega import objectives
from bottega.errors import BottegaError, DataError, RecipeError
from bottega.objectives import OnPolicy
from bottega.objectives.rewards import RewardFunction, SampledAnswer
from bottega.records import Posed
from bottega.runs.store import history
from bottega.sampling import Sampling
from bottega.training.preview import dry_run
from making import make_model, write_jsonl

POSED = Posed("rows line 1", "two and two?", "#### 4", row={"hint": "even"})


class Judges:
    """Models that judge: whatever they are asked, they answer with the last word of it."""

    def __call__(self, name: str, written: Sequence[SampledAnswer], /) -> list[float]:
        return [0.0] * len(written)

    def ask(self, name: str, messages: Sequence[Mapping[str, Any]], settings: Sampling, /) -> str:
        return str(messages[0]["content"]).split()[-1]


def reward(given: Any) -> RewardFunction:
    made = objectives.build_objective({"kind": "grpo", "rewards": given})
    assert isinstance(made, OnPolicy)
    return made.rewards[0]


def mark(given: Any, text: str, tokens: int = 3) -> float:
    (found,) = reward(given).scores([SampledAnswer(POSED, text, tokens, True)], Judges())
    return found


@pytest.mark.parametrize(
    ("given", "text", "wanted"),
    [
        ("numeric", "so it is 4.0", 1.0),
        ("numeric", "5", 0.0),
        ("exact", "#### 4 ", 1.0),
        ({"kind": "pattern", "pattern": "(?i)FOUR|4$"}, "it is\nfour", 1.0),
        ({"kind": "pattern", "pattern": "four", "whole": True}, " four\n", 1.0),
        ({"kind": "pattern", "pattern": "four", "whole": True}, "it is four", 0.0),
    ],
)
def test_scores_of_answers(given: Any, text: str, wanted: float) -> None:
    assert mark(given, text) == wanted


TEMPLATES = {"input": "{{sample.output_text}}", "reference": "{{item.hint}}"}
ALIKE = {"type": "string_check", "name": "alike", "operation": "like", **TEMPLATES}


def test_a_grader_asks_a_model() -> None:
    grader = {
        "type": "score_model",
        "model": "judge",
        "input": [{"role": "user", "content": "Grade {{sample.output_text}}"}],
    }
    given = {"kind": "grader", "grader": grader}
    assert [mark(given, text) for text in ("it is 0.25", "0.5")] == [0.25, 0.5]
    assert reward(given).judge_names == ("judge",)
    with pytest.warns(RuntimeWarning, match="cannot be graded: the model answered no number: 'good'"):
        assert mark(given, "good") == 0


def test_a_grader_reads_the_row_and_the_answer() -> None:
    given = {"kind": "grader", "grader": ALIKE}
    assert [mark(given, text) for text in ("an even number", "odd")] == [1.0, 0.0]
    assert reward(given).name == "alike"
    with pytest.raises(DataError, match=r"rows line 1, grader alike: there is no \{\{item.nope\}\}"):
        mark({"kind": "grader", "grader": {**ALIKE, "reference": "{{item.nope}}"}}, "odd")


def test_the_length_penalty_rises_from_free_to_most() -> None:
    given = {"kind": "length", "free": 4, "most": 8}
    assert [mark(given, "", tokens) for tokens in (1, 4, 5, 8, 90)] == [0.0, 0.0, -0.25, -1.0, -1.0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "at least one"),
        ("exakt", "unknown reward 'exakt'"),
        ({"kind": "grader", "grader": {"type": "magic"}}, "no grader of the type 'magic'"),
        ({"kind": "grader", "grader": {"type": "score_model", "model": "m", "input": []}}, "at least one item"),
        ({"kind": "metric", "metric": "chrff"}, "unknown metric"),
        ({"kind": "pattern", "pattern": "("}, "not a regular expression"),
        ({"kind": "length", "free": 8, "most": 8}, "above free"),
        ({"pattern": "x"}, "unknown reward None"),
        ({"kind": "pattern", "patern": "x"}, "did you mean pattern"),
        (["exact", {"kind": "length", "free": 1, "mst": 2}], "did you mean most"),
    ],
)
def test_invalid_rewards_are_refused(given: Any, words: str) -> None:
    document = {
        "model": {"base": "m"},
        "data": {"train": "rows.jsonl"},
        "objective": {"kind": "grpo", "rewards": given},
    }
    with pytest.raises(RecipeError, match=words):
        bottega.Recipe.parse(document)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("def score(answer, reference):\n    return reference in answer", 1.0),
        ("def score(answer, reference, row):\n    return len(row['hint'])", 4.0),
        ("def score(answer, reference, strict=False):\n    return strict", 0.0),
        ("import numpy\ndef score(*given):\n    return numpy.float32(len(given))", 2.0),
    ],
)
def test_a_custom_function(code: str, wanted: float, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    assert mark({"kind": "custom", "file": str(tmp_path / "mine.py")}, "it is #### 4") == wanted


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "no such file"),
        ("x = 1", "no function score"),
        ("def score(written):\n    return 1", "cannot be called with"),
        ("def score(answer, reference, *, strict):\n    return 1", "cannot be called with"),
        ("def score(answer, reference):\n    return 'good'", "not a finite number"),
        ("def score(answer, reference):\n    return 10 ** 400", "not a finite number"),
        ("def score(answer, reference):\n    return 1 / 0", "line 2"),
    ],
)
def test_an_invalid_custom_function_is_refused(code: str | None, words: str, tmp_path: Path) -> None:
    if code is not None:
        (tmp_path / "mine.py").write_text(code)
    with pytest.raises(RecipeError) as caught:
        mark({"kind": "custom", "file": str(tmp_path / "mine.py")}, "4")
    assert words in str(caught.value)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewards")
    make_model(folder / "base", "llama")
    pairs = [{"prompt": "the cat", "chosen": " sat", "rejected": f" {word}"} for word in ("ran", "red", "on", "so")]
    write_jsonl(folder / "pairs.jsonl", pairs)
    write_jsonl(folder / "asked.jsonl", [{"prompt": f"the cat {word}"} for word in ("sat", "ran", "is", "was")] * 3)
    document = {"model": {"base": "base", "dtype": "float32"}, "data": {"train": "pairs.jsonl"}}
    recipe = document | {"objective": {"kind": "reward"}, "optim": {"steps": 1, "examples": 2}}
    list(bottega.train(bottega.Recipe.parse(recipe, folder=folder), folder / "reward"))
    return folder


def run(place: Path, name: str, rewards: Any, **more: Any) -> list[Any]:
    document = {
        "model": {"base": "base", "dtype": "float32"},
        "data": {"train": "asked.jsonl", "validation": 0.3, "max_length": 64} | more.pop("data", {}),
        "objective": {"kind": "grpo", "rewards": rewards, "group": 3, "tokens": 6, **more},
        "optim": {"steps": 2, "examples": 3, "lr": 1e-3},
        "evaluate": {"every": 2},
    }
    return list(bottega.train(bottega.Recipe.parse(document, folder=place), place / name))


def test_a_reward_model_scores_answers(place: Path) -> None:
    events = run(place, "judged", [{"kind": "model", "model": "reward"}, {"kind": "length", "free": 1, "most": 9}])
    (told,) = [event for event in events if event.type == "answered" and event.step == 1]
    assert len(set(told.rewards)) > 1
    stepped = next(event for event in events if event.type == "stepped")
    assert stepped.metrics["reward"] == pytest.approx(
        stepped.metrics["reward_model"] + stepped.metrics["reward_length"]
    )


def test_rows_without_a_reference_answer_are_left_out_if_a_reward_compares(place: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "answer": 5},
        {"prompt": "b"},
        {"prompt": "c", "answer": "d"},
        {"prompt": "e", "answer": " x"},
    ]
    data = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    for rewards, count in (("exact", 3), ({"kind": "length", "free": 1, "most": 9}, 4)):
        document = {
            "model": {"base": str(place / "base")},
            "data": {"train": data},
            "objective": {"kind": "grpo", "rewards": rewards, "tokens": 6},
        }
        assert dry_run(bottega.Recipe.parse(document))["examples"] == count
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "b"}])
    with pytest.raises(DataError, match="no reference answer"):
        dry_run(bottega.Recipe.parse(document | {"objective": {"kind": "grpo", "rewards": "exact", "tokens": 6}}))


def test_prompts_without_room_for_an_answer_are_refused(place: Path) -> None:
    with pytest.raises(BottegaError, match="leave no room"):
        run(place, "full", {"kind": "pattern", "pattern": "a"}, data={"max_length": 6})


def test_a_run_is_evaluated_by_its_rewards(place: Path, tmp_path: Path) -> None:
    """Prompts are cut as they were in training, and what an answer takes is counted alike."""
    rows = [{"prompt": "the cat sat on " * 30}, *({"prompt": f"the dog {word}"} for word in ("ran", "sat", "is", "so"))]
    data = {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows * 3)), "too_long": "truncate"}
    rewards = [{"kind": "length", "free": 2, "most": 8}, {"kind": "pattern", "pattern": "[aeiou]", "weight": 2}]
    run(place, "measured", rewards, data=data)
    found = {one.metric: one for one in bottega.evaluate(place / "measured").estimates}
    assert {"reward", "reward/length", "reward/pattern"} <= set(found)
    assert -4 / 6 - 1e-9 <= found["reward/length"].run <= 0
    assert found["reward"].run == pytest.approx(found["reward/length"].run + 2 * found["reward/pattern"].run)
    assert found["reward"].base is not None


def test_a_run_with_reference_answers_is_evaluated_by_both(place: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"the cat {number}", "answer": f"the mat {number}"} for number in range(20)]
    data = {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows))}
    run(place, "both", ["exact", {"kind": "length", "free": 2, "most": 8}], data=data)
    report = bottega.evaluate(place / "both")
    found = {one.metric for one in report.estimates}
    assert {"reward", "reward/exact", "loss", "exact_match"} <= found
    assert report.verdict.metric == "reward"
    assert json.loads(json.dumps(history(place / "both")[-1]))["type"] == "finished"
