"""The verdict: its outcome, its sentence, and void verdicts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.errors import RunError
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.verdict import decide_verdict
from bottega.recipe.schema import Recipe
from bottega.reporting.report import build_report, write_report
from making import WORDS, make_model, write_jsonl


def estimate(low: float, high: float, *, higher: bool = True, metric: str = "accuracy") -> Estimate:
    return Estimate(metric, 100, 0.8, 0.7, (low, high), higher, error=(high - low) / 4)


@pytest.mark.parametrize(
    ("low", "high", "margin", "outcome", "words"),
    [
        (0.01, 0.2, 0.0, "better", "Better: accuracy 0.8 against 0.7 of it"),
        (0.05, 0.2, 0.04, "better", "above the margin of 0.04"),
        (0.01, 0.03, 0.04, "better", "below 0.04, the margin that matters"),
        (-0.01, 0.2, 0.0, "inconclusive", "Inconclusive"),
        (-0.01, 0.2, 0.02, "not worse", "Not worse, by the margin of 0.02"),
        (-0.1, 0.2, 0.02, "inconclusive", "rows would show a difference of"),
        (-0.2, -0.01, 0.05, "worse", "Worse"),
    ],
)
def test_the_outcome_and_sentence_of_an_interval(
    low: float, high: float, margin: float, outcome: str, words: str
) -> None:
    found = decide_verdict([estimate(low, high)], metric=None, margin=margin, base="it")
    assert found.outcome == outcome
    assert words in found.sentence
    turned = decide_verdict([estimate(-high, -low, higher=False)], metric=None, margin=margin, base="it")
    assert turned.outcome == outcome


def test_the_declared_metric_decides_or_the_first_in_order() -> None:
    loss, macro = estimate(0.1, 0.2, metric="loss", higher=False), estimate(-0.2, -0.1, metric="f1_macro")
    several = [loss, macro, estimate(0.1, 0.2)]
    assert decide_verdict(several, metric=None, margin=0, base="it").metric == "accuracy"
    assert decide_verdict(several, metric="f1_macro", margin=0, base="it").outcome == "worse"
    with pytest.raises(RunError, match="was not measured") as caught:
        decide_verdict(several, metric="F1", margin=0, base="it")
    assert caught.value.fix == "one of: loss, f1_macro, accuracy"


def test_no_baseline_few_rows_and_many_leaked_rows() -> None:
    alone = Estimate("loss", 40, 2.0, None, None, False)
    assert (
        decide_verdict([alone], metric=None, margin=0, base=None).sentence
        == "Inconclusive: there is nothing to compare with."
    )
    few = Estimate("loss", 4, 2.0, 3.0, None, False)
    assert "4 rows are too few, or too similar" in decide_verdict([few], metric=None, margin=0, base="it").sentence
    assert decide_verdict([estimate(0.1, 0.2)], metric=None, margin=0, base="it", leaked=10, of=100).outcome == "void"
    assert decide_verdict([estimate(0.1, 0.2)], metric=None, margin=0, base="it", leaked=9, of=100).outcome == "better"


def test_the_strongest_baseline_decides() -> None:
    ahead, level, behind = estimate(0.1, 0.2), estimate(-0.05, 0.1), estimate(-0.2, -0.1)
    loss = estimate(0.1, 0.2, metric="loss", higher=False)
    beside = {"few-shot": [ahead], "bm25": [level, loss]}
    found = decide_verdict([ahead], metric=None, margin=0, base="it", others=beside)
    assert (found.outcome, found.beside) == ("inconclusive", "bm25")
    assert "of bm25, the strongest of 3 baselines" in found.sentence
    assert decide_verdict([ahead], metric=None, margin=0.1, base="it", others=beside).outcome == "not worse"
    assert decide_verdict([ahead], metric=None, margin=0, base="it", others={"few-shot": [ahead]}).outcome == "better"
    assert (
        decide_verdict([ahead], metric=None, margin=0, base="it", others={**beside, "other": [behind]}).outcome
        == "worse"
    )
    alone = Estimate("accuracy", 100, 0.8, None, None)
    assert decide_verdict([alone], metric=None, margin=0, base=None, others={"bm25": [ahead]}).outcome == "better"


def test_the_first_sentence_names_the_baselines_that_are_better() -> None:
    ahead, behind = estimate(0.1, 0.2), estimate(-0.2, -0.1)
    found = decide_verdict([ahead], metric=None, margin=0, base="it", others={"bm25": [behind]})
    assert found.sentence.startswith("Worse than bm25, the strongest of 2 baselines: accuracy 0.8 against 0.7, ")
    more = {"bm25": [estimate(-0.3, -0.1)], "dense": [behind], "few-shot": [ahead]}
    found = decide_verdict([ahead], metric=None, margin=0, base="it", others=more)
    assert found.sentence.startswith("Worse than bm25 and dense: accuracy 0.8 against 0.7 of bm25, the strongest ")
    assert decide_verdict([behind], metric=None, margin=0, base="it").sentence.startswith("Worse than it: ")


def test_a_baseline_without_the_deciding_metric_is_compared_by_another() -> None:
    """Nearest rows have no loss: by ROUGE-L they stand beside the run, and are as hard to beat as anything."""
    loss = estimate(-0.2, -0.1, metric="loss", higher=False)
    by = {name: estimate(*gain, metric="rouge_l") for name, gain in (("ahead", (0.1, 0.2)), ("level", (-0.1, 0.2)))}
    rows = {"nearest rows": [estimate(-0.3, -0.2, metric="rouge_l"), estimate(0.1, 0.2, metric="chrf")]}
    for metric in (None, "loss"):
        found = decide_verdict([loss], metric=metric, margin=0.05, base="it", others=rows | {"few-shot": [loss]})
        assert (found.outcome, found.metric, found.beside) == ("worse", "loss", "nearest rows")
        assert found.sentence.startswith("Worse than nearest rows: ROUGE-L 0.8 against 0.7, a difference of -0.3 to ")
        assert "By loss it is better than it, the strongest of 2 baselines by loss: loss 0.8" in found.sentence
    better = decide_verdict([loss], metric=None, margin=0, base="it", others={"nearest rows": [by["ahead"]]})
    assert better.sentence.startswith("Better: loss 0.8 against 0.7 of it, a difference")
    assert "By ROUGE-L it is better than nearest rows" in better.sentence
    level = decide_verdict([loss], metric=None, margin=0, base="it", others={"nearest rows": [by["level"]]})
    assert level.outcome == "better", "what decides is the loss, and nearest rows are not known to be better"
    assert "By ROUGE-L it is neither clearly better nor worse than nearest rows" in level.sentence
    both = decide_verdict(
        [loss],
        metric=None,
        margin=0,
        base="it",
        others=rows | {"few-shot": [estimate(1, 2, metric="loss", higher=False)]},
    )
    assert both.sentence.startswith("Worse than few-shot and nearest rows: loss 0.8 against 0.7 of few-shot")
    assert (
        decide_verdict([by["level"]], metric=None, margin=0, base=None, others={"rows": [by["level"]]}).outcome
        == "inconclusive"
    )


def test_baselines_that_cannot_be_compared_are_named() -> None:
    ahead, few = estimate(0.1, 0.2), Estimate("accuracy", 4, 0.8, 0.7, None)
    others = {"few": [few], "mute": [estimate(0.1, 0.2, metric="a mark of its own")]}
    found = decide_verdict([ahead], metric=None, margin=0, base="it", others=others)
    assert found.outcome == "better"
    assert "No conclusion about few: 4 rows are too few." in found.sentence
    assert "No conclusion about mute: no metric was measured for both." in found.sentence


def messages(count: int, seed: int) -> list[dict[str, str]]:
    """Messages about a cat or a dog, which is their label."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        label = draw.choice(["cat", "dog"])
        words = [*draw.choices(WORDS[8:], k=6), label, *draw.choices(WORDS[8:], k=4)]
        found.append({"text": " ".join(words), "label": label})
    return found


def tuned(folder: Path, train: list[dict[str, str]], test: list[dict[str, str]], **sections: Any) -> Path:
    recipe = Recipe.parse(
        {
            "model": {"base": str(make_model(folder / "model", "bert"))},
            "data": {
                "train": str(write_jsonl(folder / "train.jsonl", train)),
                "validation": str(write_jsonl(folder / "test.jsonl", test)),
            },
            "objective": {"kind": "classify"},
            "optim": {"steps": 60, "examples": 16, "lr": 3e-3},
            "evaluate": {"every": 60},
            **sections,
        }
    )
    for _ in bottega.train(recipe, folder / "run"):
        pass
    return folder / "run"


def test_a_run_that_learned_is_better_and_void_on_rows_it_was_trained_on(tmp_path: Path) -> None:
    train, test = messages(200, 0), messages(80, 1)
    run = tuned(tmp_path / "a", train, test, verdict={"metric": "f1_macro", "margin": 0.1})
    beside = bottega.evaluate(run)
    assert beside.verdict.outcome == "not worse", "the words of these rows tell their labels, and BM25 reads them"
    assert beside.verdict.beside == "nearest training rows, bm25"
    assert [one.name for one in beside.contenders] == [
        beside.base, "nearest training rows, bm25", "nearest training rows, dense",
    ]  # fmt: skip
    found = bottega.evaluate(run, against=[])
    assert found.verdict.outcome == "better"
    assert (found.verdict.metric, found.leaked, found.rows) == ("f1_macro", 0, 80)
    assert found.predictions is not None
    assert found.predictions.matrix().sum() == 80
    assert found.document()["classes"]["labels"] == ["cat", "dog"]
    page = write_report(build_report(found), tmp_path / "report")[-1].read_text(encoding="utf-8")
    assert "Confusion matrix" in page
    assert "Expected calibration error" in page
    many = str(write_jsonl(tmp_path / "many.jsonl", [*test[:60], *train[:20]]))
    found = bottega.evaluate(run, many)
    assert found.verdict.outcome == "void"
    assert "20 of the 80 rows" in found.verdict.sentence
    few = str(write_jsonl(tmp_path / "few.jsonl", [*test[:77], *train[:3]]))
    found = bottega.evaluate(run, few, against=[])
    assert (found.verdict.outcome, found.leaked, found.rows) == ("better", 3, 77)


def test_a_run_with_its_training_rows_among_its_validation_rows_is_void(tmp_path: Path) -> None:
    train, test = messages(40, 0), messages(20, 1)
    run = tuned(tmp_path, train, [*test[:15], *train[:5]], optim={"steps": 1}, evaluate={})
    found = bottega.evaluate(run, against=[])
    assert (found.verdict.outcome, found.leaked) == ("void", 5)


def test_a_run_on_shuffled_labels_is_not_better(tmp_path: Path) -> None:
    train, test = messages(200, 0), messages(80, 1)
    labels = [row["label"] for row in train]
    random.Random(0).shuffle(labels)
    shuffled = [{**row, "label": label} for row, label in zip(train, labels, strict=True)]
    assert bottega.evaluate(tuned(tmp_path, shuffled, test)).verdict.outcome in ("inconclusive", "worse")
