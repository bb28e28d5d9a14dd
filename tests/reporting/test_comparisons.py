"""What an evaluation tells beyond its metrics: costs, and the best and worst rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bottega.evaluation.cost import Cost
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Comparison, Evaluation
from bottega.evaluation.verdict import Verdict
from bottega.records import Labelled
from bottega.reporting.comparisons import MAX_RANKED_ROWS, MAX_TEXT_LENGTH, _shorten, rank_rows, summarize_costs


def test_the_most_and_the_least_improved_rows(report_text: Callable[[str], str]) -> None:
    document = json.loads(report_text("json"))
    gains = [one["base"] - one["run"] for name in ("best", "worst") for one in document[name]]
    assert len(gains) == 20
    assert gains[:10] == sorted(gains[:10], reverse=True)
    assert gains[10:] == sorted(gains[10:])
    assert min(gains[:10]) >= max(gains[10:])
    assert document["by"] == "loss"
    assert all(re.fullmatch(r"rows\.jsonl line \d+", one["where"]) for one in document["best"])


def evaluation(*estimates: Estimate, **changes: Any) -> Evaluation:
    """An evaluation of ten texts; the run answered the first of them."""
    records = [Labelled(f"row {number}", f"text {number}", "a") for number in range(10)]
    values: dict[str, Any] = {
        "run": "runs/a", "base": "smol", "rows": 10, "of": 10, "dropped": {}, "leaked": 0,
        "estimates": list(estimates), "verdict": Verdict("better", "Better.", None, 0.0),
        "contenders": [Comparison("smol", list(estimates), answers=["b", *[None] * 9])], "records": records,
        "answers": ["a", *[None] * 9],
    }  # fmt: skip
    return Evaluation(**{**values, **changes})


def estimate(metric: str, run: list[float], base: list[float], *, higher: bool = True) -> Estimate:
    return Estimate(metric, len(run), 0.0, 0.0, None, higher, each=(np.array(run), np.array(base)))


def test_rows_are_ranked_by_their_gain_half_of_them_on_either_side() -> None:
    run, base = [float(n) for n in range(10)], [5.0] * 10
    ranked = rank_rows(evaluation(estimate("loss", run, base, higher=False)))
    assert ranked.metric == "loss"
    assert [row.where for row in ranked.best] == [f"row {n}" for n in (0, 1, 2, 3, 4)]
    assert [row.where for row in ranked.worst] == [f"row {n}" for n in (9, 8, 7, 6, 5)]
    first = ranked.best[0]
    assert (first.prompt, first.reference, first.run, first.base) == ("text 0", "a", 0.0, 5.0)
    assert (first.run_answer, first.base_answer) == ("a", "b")
    assert (ranked.best[1].run_answer, ranked.best[1].base_answer) == (None, None)


def test_rows_are_ranked_by_the_loss_where_it_is_known_for_each_row() -> None:
    accuracy = estimate("accuracy", [1.0] * 10, [0.0] * 10)
    assert rank_rows(evaluation(accuracy, estimate("loss", [1.0] * 10, [2.0] * 10, higher=False))).metric == "loss"
    # A loss of pieces of texts is none of rows.
    assert rank_rows(evaluation(estimate("loss", [1.0] * 4, [2.0] * 4), accuracy)).metric == "accuracy"
    assert rank_rows(evaluation(Estimate("loss", 10, 1.0, 2.0, None))) == (None, [], [])


def test_no_more_than_ten_rows_are_shown_on_a_side() -> None:
    records = [Labelled(f"row {number}", "text", "a") for number in range(50)]
    values = [float(number) for number in range(50)]
    ranked = rank_rows(evaluation(estimate("m", values, [0.0] * 50), records=records, answers=None, contenders=[]))
    assert (len(ranked.best), len(ranked.worst)) == (MAX_RANKED_ROWS, MAX_RANKED_ROWS)
    assert [row.where for row in ranked.best[:2]] == ["row 49", "row 48"]


def test_long_texts_are_cut() -> None:
    assert _shorten("x" * MAX_TEXT_LENGTH) == "x" * MAX_TEXT_LENGTH
    assert _shorten("x" * (MAX_TEXT_LENGTH + 1)) == "x" * MAX_TEXT_LENGTH + " …"


@pytest.mark.parametrize(
    ("cost", "sentence"),
    [
        (Cost(5, 150.0, 3.0, 0.75), "the run reads 50 fewer tokens and takes 0.500 s less on this machine; "
         "the 1,000 s of training are saved after 2,000 answers."),
        (Cost(5, 60.0, 3.0, 0.125), "the run reads 40 more tokens and takes 0.125 s longer on this machine."),
        (Cost(5, 100.4, 3.0, 0.25), "the run reads as many tokens and takes 0.000 s less on this machine."),
    ],
)  # fmt: skip
def test_the_cost_of_an_answer_beside_that_of_a_baseline(cost: Cost, sentence: str) -> None:
    contenders = [Comparison("few-shot", [], cost), Comparison("bm25", [])]
    result = evaluation(cost=Cost(5, 100.0, 3.0, 0.25), contenders=contenders)
    assert summarize_costs(result, 1000.0) == [f"Cost per answer, compared with few-shot: {sentence}"]
    assert summarize_costs(evaluation(contenders=contenders), 1000.0) == []
