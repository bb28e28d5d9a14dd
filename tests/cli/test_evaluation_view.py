"""The result of an evaluation in the terminal."""

from __future__ import annotations

from typing import Any

import pytest

from bottega.cli.evaluation_view import NARROW_WIDTH, format_finding, show_evaluation
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Comparison, Evaluation
from bottega.evaluation.verdict import Verdict, decide_verdict
from making import printed

ACCURACY = Estimate("accuracy", 40, 0.9, 0.5, (0.2, 0.6), True)
LOSS = Estimate("loss", 40, 1.0, 1.5, (-0.7, 0.1), False)


def evaluation(**changes: Any) -> Evaluation:
    values: dict[str, Any] = {
        "run": "runs/a", "base": "smol", "rows": 40, "of": 60, "dropped": {}, "leaked": 0,
        "estimates": [LOSS, ACCURACY], "verdict": Verdict("better", "Better: it is.", "accuracy", 0.0),
        "contenders": [Comparison("smol", [LOSS, ACCURACY])],
    }  # fmt: skip
    return Evaluation(**{**values, **changes})


def test_metrics_stand_beside_those_of_the_base() -> None:
    lines = [line.split() for line in printed(show_evaluation, evaluation()).splitlines()]
    assert lines[0] == ["runs/a", "on", "40", "of", "60", "rows"]
    assert ["loss", "1.000", "1.500", "-0.700", "to", "+0.100", "inconclusive", "40"] in lines
    assert ["accuracy", "0.900", "0.500", "+0.200", "to", "+0.600", "better", "40"] in lines
    assert ["Better:", "it", "is."] in lines
    assert lines[-1] == ["base:", "smol"]


def test_baselines_are_compared_by_the_metric_that_decides_or_by_another() -> None:
    others = [Comparison("few-shot", [LOSS, ACCURACY]), Comparison("bm25", [LOSS]), Comparison("mute", [])]
    text = printed(show_evaluation, evaluation(contenders=[Comparison("smol", [ACCURACY]), *others]))
    assert "Comparison with baselines: accuracy" in text
    assert "\nfew-shot " in text
    assert "\nbm25, by loss " in text
    assert "\nmute" not in text
    assert "Comparison with baselines" not in printed(show_evaluation, evaluation())


def test_side_effects_have_a_table_of_their_own() -> None:
    effect = Estimate("harmful_refusals", 12, 1.0, 0.0, (0.4, 1.0), True)
    assert "Side effects" in printed(show_evaluation, evaluation(effects=[effect]))
    assert "Side effects" not in printed(show_evaluation, evaluation())


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"unasked": {"dense": "no encoder [given]"}}, "note dense: no encoder [given]"),
        ({"dropped": {"too long": 3}}, "note 3 rows left out: too long"),
        ({"leaked": None}, "note not checked whether these rows are training rows"),
        ({"leaked": 2}, "note 2 rows left out: they are also training rows"),
        ({"base": None, "contenders": []}, "base: none, the run was trained from scratch"),
        ({"seeds": [0.5, 0.7]}, "With 2 seeds accuracy is 0.5, 0.7: 0.6 on average, standard deviation 0.14."),
    ],
)
def test_notes_follow_the_verdict(changes: dict[str, Any], note: str) -> None:
    assert note in printed(show_evaluation, evaluation(**changes), width=200)
    assert "note" not in printed(show_evaluation, evaluation())


def test_a_void_verdict_says_by_itself_that_rows_leaked() -> None:
    void = Verdict("void", "Void: 20 of the 40 rows are training rows.", "accuracy", 0.0)
    assert "left out" not in printed(show_evaluation, evaluation(leaked=20, verdict=void))


def test_a_narrow_terminal_has_a_line_for_each_number() -> None:
    lines = printed(show_evaluation, evaluation(), width=NARROW_WIDTH - 1).splitlines()
    place = lines.index("accuracy")
    assert lines[place + 1 : place + 6] == [
        "  run        0.900", "  base       0.500", "  difference +0.200 to +0.600", "  finding    better",
        "  rows       40",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [40, 80])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_broken(width: int) -> None:
    estimate = Estimate("f1_macro", 120, 0.708, 0.083, (0.493, 0.722), True)
    name = "always balance_not_updated_after_bank_transfer, the most frequent label"
    verdict = decide_verdict([estimate], metric=None, margin=0, base=name)
    contenders = [Comparison(name, [estimate]), Comparison("b", [estimate])]
    result = Evaluation("runs/bank", name, 120, 120, {}, 0, [estimate], verdict, contenders)
    text = printed(show_evaluation, result, width=width)
    assert max(map(len, text.splitlines())) <= width
    for number in ("0.708", "0.083", "+0.493 to +0.722", "better"):
        assert text.count(number) >= 3
    assert text.count("balance_not_updated_after_bank_transfer") >= 2


@pytest.mark.parametrize(
    ("higher", "interval", "finding"),
    [(None, (0.4, 0.7), "neither"), (True, None, "too few rows"), (True, (0.4, 0.7), "[green]better[/]")],
)
def test_the_finding_of_a_comparison_is_never_empty(
    higher: bool | None, interval: tuple[float, float] | None, finding: str
) -> None:
    assert format_finding(Estimate("metric", 3, 0.7, 0.1, interval, higher)) == finding
    assert format_finding(Estimate("metric", 3, 0.7, None, None, higher)) == ""
