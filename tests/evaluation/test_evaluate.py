"""Evaluations: they agree with validation during training, and compare every metric with the base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.errors import DataError, ModelError, RunError
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Evaluation, evaluate
from bottega.metrics.catalog import METRICS
from bottega.runs.store import history
from making import QUESTIONS, write_jsonl

# Options of an evaluation that generates nothing and has no baseline but the base.
LOSSES: dict[str, Any] = {"against": [], "answers": 0}

# Sections of a run that need not learn anything.
SHORT: dict[str, Any] = {"optim": {"steps": 1, "examples": 8}, "evaluate": None}


def found(evaluation: Evaluation) -> dict[str, Estimate]:
    assert all(METRICS[one.metric].higher is one.higher for one in evaluation.estimates)
    return {one.metric: one for one in evaluation.estimates}


def validated(run: Path) -> list[dict[str, Any]]:
    """The validations before the first update and after the last."""
    return [event for event in history(run) if event["type"] == "validated"]


@pytest.mark.parametrize(
    "more", [pytest.param({}, id="full", marks=pytest.mark.slow), pytest.param({"adapter": {"rank": 4}}, id="lora")]
)
def test_losses_equal_those_of_validation_during_training(trained: Callable[..., Path], more: dict[str, Any]) -> None:
    for kind in ("sft", "causal"):
        run = trained(kind, **more)
        loss = found(evaluate(run, **LOSSES))["loss"]
        before, after = validated(run)
        assert loss.run == pytest.approx(after["loss"], abs=1e-5)
        assert loss.base == pytest.approx(before["loss"], abs=1e-5)
        assert loss.interval is not None
        assert loss.interval[0] <= loss.run - loss.base <= loss.interval[1] < 0
        assert loss.finding == "better"


def test_answers_that_are_labels_are_scored_and_generated(trained: Callable[..., Path]) -> None:
    evaluation = evaluate(trained("sft"))
    one = found(evaluation)
    assert evaluation.base == "llama"
    assert list(one) == ["loss", "perplexity", "accuracy", "f1_macro", "exact_match"]
    assert one["accuracy"].run == one["exact_match"].run > 0.9
    assert one["f1_macro"].run == pytest.approx(one["accuracy"].run, abs=0.02)
    assert one["accuracy"].base is not None
    assert one["accuracy"].base < 0.8
    assert one["exact_match"].base == 0.0
    assert one["exact_match"].finding == "better"


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_a_classifier_is_compared_with_the_most_frequent_label(trained: Callable[..., Path], model: str) -> None:
    run = trained("classify", model=model)
    evaluation = evaluate(run, against=[])
    one = found(evaluation)
    assert list(one) == ["loss", "accuracy", "f1_macro"]
    assert one["loss"].run == pytest.approx(validated(run)[1]["loss"], abs=1e-4)
    assert one["accuracy"].run == pytest.approx(validated(run)[1]["metrics"]["accuracy"])
    assert evaluation.base in ("always red, the most frequent label", "always blue, the most frequent label")
    assert one["accuracy"].base is not None
    assert 0.3 < one["accuracy"].base < 0.7


def test_a_classifier_trained_as_an_adapter_is_the_same_when_loaded(trained: Callable[..., Path]) -> None:
    run = trained("classify", adapter={"rank": 4})
    one = found(evaluate(run, against=[]))
    assert one["loss"].run == pytest.approx(validated(run)[1]["loss"], abs=1e-4)
    (sure,) = bottega.load_classifier(run).classify(["the cat the"])
    assert sum(sure.probabilities.values()) == pytest.approx(1)
    assert sure.label == "red"


def test_preference_accuracy_equals_that_of_validation(trained: Callable[..., Path]) -> None:
    run = trained("dpo", adapter={"rank": 4})
    one = found(evaluate(run))
    assert list(one) == ["preference_accuracy", "implicit_reward_accuracy", "chosen_loss"]
    assert one["implicit_reward_accuracy"].run == validated(run)[1]["metrics"]["accuracy"]
    assert one["preference_accuracy"].base is not None
    kto = found(evaluate(trained("kto", adapter={"rank": 4})))
    assert list(kto) == list(one), "answers learned one by one are compared in pairs all the same"
    assert kto["implicit_reward_accuracy"].run > 0.9
    run = trained("reward")
    evaluation = evaluate(run)
    assert evaluation.base == "taking the longer answer"
    assert found(evaluation)["preference_accuracy"].run == validated(run)[1]["metrics"]["accuracy"]
    assert found(evaluation)["preference_accuracy"].base == 0.0, "the chosen answer is always the shorter"


def test_a_continued_adapter_is_compared_with_the_adapter_it_started_from(trained: Callable[..., Path]) -> None:
    first = trained("sft", adapter={"rank": 4})
    second = trained("sft", adapter={"from": str(first)}, seed=1)
    loss = found(evaluate(second, **LOSSES))["loss"]
    assert loss.base == pytest.approx(validated(second)[0]["loss"], abs=1e-5)


def test_other_rows_are_sampled_the_same_every_time(trained: Callable[..., Path], tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", QUESTIONS[:30])
    evaluation = evaluate(trained("sft"), str(other), rows=10)
    assert (evaluation.rows, evaluation.of) == (10, 30)
    assert evaluation == evaluate(trained("sft"), [str(other)], rows=10), "the same rows are drawn every time"
    assert {one.rows for one in evaluation.estimates} == {10}


def test_spare_rows_replace_those_that_make_no_example(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("sft")
    long = [{"instruction": row["instruction"], "output": "mat " * 200} for row in QUESTIONS]
    mixed = [row for three in zip(QUESTIONS, long, long, strict=True) for row in three][: 3 * 20]
    evaluation = evaluate(run, str(write_jsonl(tmp_path / "mixed.jsonl", mixed)), rows=15, **LOSSES)
    assert (evaluation.rows, evaluation.of) == (15, 60)
    assert {one.rows for one in evaluation.estimates} == {15}
    assert all(count > 0 for count in evaluation.dropped.values())
    assert len({record.where for record in evaluation.records}) == 15
    # All that can be measured, where that is fewer; and the rows without spares are those drawn before.
    evaluation = evaluate(run, str(tmp_path / "mixed.jsonl"), rows=50, **LOSSES)
    assert (evaluation.rows, sum(evaluation.dropped.values())) == (20, 40)
    # However many are asked for, no more than so many stand by.
    monkeypatch.setattr("bottega.evaluation.evaluate.MAX_SPARES", 10)
    evaluation = evaluate(run, str(tmp_path / "mixed.jsonl"), rows=15, **LOSSES)
    assert (evaluation.rows + sum(evaluation.dropped.values()), evaluation.of) == (25, 60)


def test_a_run_without_validation_rows_needs_other_rows(trained: Callable[..., Path]) -> None:
    run = trained("sft", data={"train": str(trained("sft").parent / "sft.jsonl")}, **SHORT)
    with pytest.raises(DataError, match="has no validation rows"):
        evaluate(run)


def test_files_that_have_changed_are_refused(trained: Callable[..., Path], tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", QUESTIONS)
    run = trained("sft", name="moved", data={"train": str(rows), "validation": 0.4}, **SHORT)
    assert evaluate(run, **LOSSES).rows
    write_jsonl(rows, [*QUESTIONS, *QUESTIONS[:3]])
    with pytest.raises(RunError, match="has changed since the run began"):
        evaluate(run)
    assert evaluate(run, str(rows), **LOSSES).of == len(QUESTIONS) + 3


def test_other_rows_are_read_with_the_mapping_of_the_run(trained: Callable[..., Path], tmp_path: Path) -> None:
    odd = [{"asked": row["instruction"], "said": row["output"]} for row in QUESTIONS]
    source = {
        "path": str(write_jsonl(tmp_path / "odd.jsonl", odd)),
        "mapping": {"instruction": "asked", "output": "said"},
    }
    run = trained("sft", name="mapped", data={"train": source}, **SHORT)
    assert evaluate(run, source["path"], rows=12, **LOSSES).rows == 12


def test_few_rows_have_no_interval(trained: Callable[..., Path], tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "one.jsonl", QUESTIONS[:1])
    one = found(evaluate(trained("sft"), str(other), against=[]))
    assert one["loss"].base is not None
    assert one["loss"].finding is None
    assert one["exact_match"].finding in ("inconclusive", "better")


def test_a_very_long_prompt_does_not_shorten_the_answers_to_others(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    run = trained("sft")
    model = bottega.load(run)
    assert model.limit is not None
    long = {"instruction": "the cat " * 100, "output": "red"}
    while model.room([{"role": "user", "content": long["instruction"]}]) < 8:
        long["instruction"] = long["instruction"][:-8]
    rows = [*QUESTIONS[:20], long]
    one = found(evaluate(run, str(write_jsonl(tmp_path / "long.jsonl", rows)), against=[]))["exact_match"]
    assert one.rows == 21
    assert one.run > 0.8


def test_prompts_are_tokenized_as_in_training(trained: Callable[..., Path], tmp_path: Path) -> None:
    """Also where the template ends in a space, which the tokenizer draws to the answer."""
    template = "Q: {instruction}\nA: {output}"
    rows = str(write_jsonl(tmp_path / "rows.jsonl", QUESTIONS))
    run = trained("sft", name="templated", data={"train": rows, "validation": rows, "text_template": template})
    one = found(evaluate(run, against=[]))
    assert one["exact_match"].run == pytest.approx(one["accuracy"].run, abs=0.05)
    assert one["exact_match"].run > 0.8


def test_rows_that_the_run_would_drop_are_counted(trained: Callable[..., Path], tmp_path: Path) -> None:
    data = {"train": str(write_jsonl(tmp_path / "a.jsonl", QUESTIONS)), "bad_rows": "drop"}
    run = trained("sft", name="dropping", data=data, **SHORT)
    other = write_jsonl(tmp_path / "b.jsonl", [*QUESTIONS[:12], {"instruction": "the cat", "output": ""}, {"odd": 1}])
    evaluation = evaluate(run, str(other), **LOSSES)
    assert evaluation.rows == 12
    assert sum(evaluation.dropped.values()) == 2


def test_the_command_prints_the_estimates(trained: Callable[..., Path]) -> None:
    run = trained("sft")
    shown = CliRunner().invoke(app, ["evaluate", str(run)])
    assert shown.exit_code == 0, shown.output
    assert "better" in shown.stdout
    printed = json.loads(
        CliRunner().invoke(app, ["evaluate", str(run), "--against", "none", "--answers", "4", "--json"]).stdout
    )
    assert {one["metric"]: one["run"] for one in printed["estimates"]} == {
        name: one.run for name, one in found(evaluate(run, against=[], answers=4)).items()
    }
    classified = CliRunner().invoke(app, ["classify", str(trained("classify")), "the dog the", "--json"])
    assert json.loads(classified.stdout)["label"] == "blue"
    chatted = CliRunner().invoke(app, ["generate", str(trained("classify")), "the"])
    assert chatted.exit_code == 2
    assert "bottega classify" in chatted.stderr


def test_a_classifier_without_texts_and_a_run_without_classes(trained: Callable[..., Path]) -> None:
    run = trained("classify")
    assert bottega.load_classifier(run).classify([]) == []
    empty = CliRunner().invoke(app, ["classify", str(run)], input="")
    assert (empty.exit_code, empty.stdout) == (0, "")
    with pytest.raises(RunError, match="has no classes"):
        bottega.load_classifier(trained("reward")).classify(["the cat"])
    with pytest.raises(ModelError, match="not a classifier"):
        bottega.load_classifier(trained("sft"))


def test_intervals_widen_with_the_number_of_baselines(trained: Callable[..., Path]) -> None:
    run = trained("sft")
    (one,) = [each for each in evaluate(run, against=[]).estimates if each.metric == "loss"]
    (three,) = [each for each in evaluate(run, against=["few-shot", "bm25"]).estimates if each.metric == "loss"]
    assert one.interval is not None
    assert three.interval is not None
    assert 1.1 < (three.interval[1] - three.interval[0]) / (one.interval[1] - one.interval[0]) < 1.4


def test_the_command_shows_the_comparison_with_baselines(trained: Callable[..., Path], tmp_path: Path) -> None:
    run = trained("sft")
    out = tmp_path / "report"
    shown_ = CliRunner().invoke(app, ["evaluate", str(run), "--rows", "24", "--against", "bm25", "--report", str(out)])
    assert shown_.exit_code == 0, shown_.output
    assert "Comparison with baselines: accuracy" in shown_.output
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Comparison with baselines: accuracy" in page
    assert "nearest training rows, bm25" in page
    assert "nearest training rows, bm25" in (out / "report.md").read_text(encoding="utf-8")
    alone = CliRunner().invoke(app, ["evaluate", str(run), "--rows", "24", "--against", "none", "--json"])
    assert len(json.loads(alone.stdout)["contenders"]) == 1
    wrong = CliRunner().invoke(app, ["evaluate", str(run), "--against", "bm52"])
    assert (wrong.exit_code, "not a baseline" in wrong.stderr) == (2, True)
