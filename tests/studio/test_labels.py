"""Labelling: choices that can be taken back, sides of chance, agreement, and the preferences that follow."""

from __future__ import annotations

from pathlib import Path

import pytest

import bottega
from bottega.studio.labels import LabelChoice, LabelSessions, is_swapped

PAIRS = [{"prompt": f"question {n}", "first": f"one {n}", "second": f"two {n}"} for n in range(6)]


@pytest.fixture
def labels(tmp_path: Path) -> LabelSessions:
    labels = LabelSessions(tmp_path)
    labels.create("mine", ["base", "tuned"], PAIRS)
    return labels


def say(labels: LabelSessions, pair: int, verdict: str, rater: str = "ann", **more: str) -> None:
    labels.choose("mine", LabelChoice(pair, rater, verdict, is_swapped("mine", pair, rater), **more))  # type: ignore[arg-type]


def test_pairs_come_in_turn_with_sides_of_chance(labels: LabelSessions) -> None:
    seen = []
    while (pair := labels.next_pair("mine", "ann")) is not None:
        seen.append(pair)
        sides = (PAIRS[pair["pair"]]["second"], PAIRS[pair["pair"]]["first"])
        assert (pair["left"], pair["right"]) == (sides if pair["swapped"] else sides[::-1])
        say(labels, pair["pair"], "skip")
    assert [(pair["pair"], pair["done"], pair["total"]) for pair in seen] == [(n, n, 6) for n in range(6)]
    swapped = [is_swapped("mine", pair, rater) for pair in range(200) for rater in ("ann", "bob")]
    assert 150 < sum(swapped) < 250


def test_a_choice_is_taken_back(labels: LabelSessions) -> None:
    say(labels, 0, "first")
    say(labels, 1, "second")
    assert labels.undo("mine", "ann") == 1
    assert [choice.pair for choice in labels.choices("mine")] == [0]
    next_pair = labels.next_pair("mine", "ann")
    assert next_pair is not None
    assert next_pair["pair"] == 1
    assert labels.undo("mine", "ann") == 0
    assert labels.undo("mine", "ann") is None


def test_the_summary_counts_who_won_and_who_agreed(labels: LabelSessions) -> None:
    for pair, (ann, bob) in enumerate([("second", "second"), ("second", "first"), ("tie", "tie"), ("bad", "second")]):
        say(labels, pair, ann, "ann")
        say(labels, pair, bob, "bob")
    say(labels, 4, "skip", "ann")
    summary = labels.summary("mine")
    assert summary["counts"] == {"first": 1, "second": 4, "tie": 2, "bad": 1, "skip": 1}
    assert (summary["win_rate"]["value"], summary["win_rate"]["count"]) == (0.8, 5)
    assert summary["win_rate"]["low"] < 0.8 < summary["win_rate"]["high"]
    assert (summary["agreement"]["value"], summary["agreement"]["count"]) == (0.5, 4)
    assert (summary["raters"], summary["choices"]) == (["ann", "bob"], 9)
    left = sum(
        (one.verdict == "second") == one.swapped for one in labels.choices("mine") if one.verdict in ("first", "second")
    )
    assert summary["left"]["value"] == left / 5


def test_preferences_are_those_of_the_majority(labels: LabelSessions) -> None:
    for rater in ("ann", "bob", "cy"):
        say(labels, 0, "first", rater)
        say(labels, 1, "second" if rater != "cy" else "first", rater)
    say(labels, 2, "first", "ann")
    say(labels, 2, "second", "bob")
    say(labels, 3, "tie")
    say(labels, 4, "second", edited="corrected")
    assert list(labels.preferences("mine")) == [
        {"prompt": "question 0", "chosen": "one 0", "rejected": "two 0"},
        {"prompt": "question 1", "chosen": "two 1", "rejected": "one 1"},
        {"prompt": "question 4", "chosen": "corrected", "rejected": "one 4"},
    ]


def test_answers_may_hold_any_line_break(labels: LabelSessions) -> None:
    answer = "one\u2028two\u0085three\nfour"
    labels.create("odd", ["a", "b"], [{"prompt": "p", "first": answer, "second": "x"}])
    labels.choose("odd", LabelChoice(0, "me", "first", False, edited=answer + "!"))
    assert list(labels.preferences("odd")) == [{"prompt": "p", "chosen": answer + "!", "rejected": "x"}]


def test_an_arena_is_that_of_two_models(labels: LabelSessions) -> None:
    with pytest.raises(bottega.DataError, match="other models"):
        labels.add_pair("mine", ["x", "y"], PAIRS[0], lambda at: LabelChoice(at, "me", "first", False))


def test_the_arena_adds_pairs(labels: LabelSessions) -> None:
    for number in range(2):
        pair = {**PAIRS[number]}
        summary = labels.add_pair("arena", ["a", "b"], pair, lambda at: LabelChoice(at, "me", "second", False))
    assert (summary["pairs"], summary["win_rate"]["value"]) == (2, 1.0)
    assert labels.names()[0] == "arena"


def test_what_is_not_there_is_refused(labels: LabelSessions) -> None:
    with pytest.raises(bottega.DataError, match="no such session"):
        labels.pairs("other")
    with pytest.raises(bottega.DataError, match="already"):
        labels.create("mine", [], [])
    with pytest.raises(bottega.DataError, match="no such pair"):
        say(labels, 6, "first")
    with pytest.raises(bottega.DataError, match="not a name"):
        labels.create("../x", [], [])
