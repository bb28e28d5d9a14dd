"""The content of a report as one value."""

from __future__ import annotations

import json
from typing import Any

from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Evaluation
from bottega.evaluation.verdict import Verdict
from bottega.reporting.model import MetricComparison, RunReport

ROW = MetricComparison("a line 1", "which?", "red", 1.0, 2.0, "red", None)


def report(**changes: Any) -> RunReport:
    loss = Estimate("loss", 40, 1.0, 1.5, (-0.7, -0.1), False)
    evaluation = Evaluation("runs/a", "smol", 40, 60, {}, 0, [loss], Verdict("better", "Better.", "loss", 0.0))
    values: dict[str, Any] = {
        "name": "mine", "evaluation": evaluation, "facts": {"rows": "40"}, "curves": {"loss": {"training": ([1], [2])}},
        "audit": None, "loss_summary": ["It fell."], "cost_summary": ("It is cheap.",), "ranking_metric": "f1_macro",
        "best": [ROW], "worst": [], "components": [("base model", "smol", "mit")], "notes": ["careful"],
        "recipe": "seed: 0", "versions": {"bottega": "1"}, "files": {"a": "b"}, "command": "bottega train",
    }  # fmt: skip
    return RunReport(**{**values, **changes})


def test_the_document_has_the_keys_that_programs_read() -> None:
    document = json.loads(json.dumps(report().document()))
    expected = {
        "name": "mine", "facts": {"rows": "40"}, "notes": ["careful"], "recipe": "seed: 0",
        "versions": {"bottega": "1"}, "files": {"a": "b"}, "command": "bottega train", "by": "f1_macro",
        "curves": {"loss": {"training": [[1], [2]]}}, "worst": [], "audit": None, "fit": ["It fell."],
        "worth": ["It is cheap."], "parts": [["base model", "smol", "mit"]], "run": "runs/a",
        "best": [{"where": "a line 1", "asked": "which?", "answer": "red", "run": 1.0, "base": 2.0, "said": "red",
                  "said_before": None}],
    }  # fmt: skip
    assert {name: document[name] for name in expected} == expected
    assert document["verdict"]["outcome"] == "better"
    assert document["estimates"][0]["finding"] == "better"


def test_ranked_rows_have_a_title_with_the_metric() -> None:
    assert report().ranked_rows == [
        ("Most improved rows, by macro F1", [ROW]),
        ("Least improved rows, by macro F1", []),
    ]
    assert report(ranking_metric=None).ranked_rows == []
    assert report(best=[]).ranked_rows == []
