"""Prompts for a model that was not tuned: with examples, or with passages."""

from __future__ import annotations

from pathlib import Path

import bottega
from bottega.evaluation.prompting import Shot, fit_prompt, leading_label, query_text, with_passages, with_shots
from bottega.records import Message
from making import make_model


def test_the_most_similar_example_comes_right_before_the_prompt() -> None:
    shots = [Shot("nearest?", " one"), Shot("far?", " two")]
    assert with_shots("asked?", shots) == "far? two\n\nnearest? one\n\nasked?"
    system, asked = Message("system", "be brief"), Message("user", "asked?")
    turns = [Shot((system, Message("user", "near")), "one"), Shot((system, Message("user", "far")), "two")]
    found = with_shots((system, asked), turns)
    assert [(one.role, one.content) for one in found if isinstance(one, Message)] == [
        ("system", "be brief"), ("user", "far"), ("assistant", "two"), ("user", "near"), ("assistant", "one"),
        ("user", "asked?"),
    ]  # fmt: skip
    assert with_passages("asked?", ["near", "far"]) == "far\n\nnear\n\nasked?"
    assert with_passages((system, asked), ["near"])[-1].content == "near\n\nasked?"


def test_as_many_passages_are_shown_as_fit(tmp_path: Path) -> None:
    codec = bottega.load(make_model(tmp_path / "m")).codec
    things = [f"passage {number} " * 5 for number in range(5)]
    for room in (40, 80, 10_000):
        found = fit_prompt(codec, "asked?", with_passages, things, room)
        assert len(codec.encode_prompt(found)) <= room
        shown_ = sum(thing in found for thing in things)
        assert shown_ == 5 or len(codec.encode_prompt(with_passages("asked?", things[: shown_ + 1]))) > room


def test_a_label_is_the_longest_that_a_text_begins_with() -> None:
    labels = ["card", "card lost", " other"]
    assert [leading_label(text, labels) for text in (" Card lost, I fear", "cards", "Other.", "a card")] == [
        1,
        0,
        2,
        -1,
    ]


def test_a_text_that_continues_a_label_has_another_label() -> None:
    labels = ["1", "10", "C", "C++", " 正"]
    told = ["1", "10", "100", "1.5", "1. so", "C", "c++", "C#", "正。", "C++ is"]
    assert [leading_label(text, labels) for text in told] == [0, 1, -1, -1, 0, 2, 3, -1, 4, 3]
    assert leading_label("cafe\u0301", ["café"]) == 0


def test_the_text_to_search_by_is_the_last_message() -> None:
    assert query_text("asked?") == "asked?"
    assert query_text((Message("system", "be brief"), Message("user", "asked?"))) == "asked?"


def test_without_passages_a_prompt_stays_as_it_is() -> None:
    assert with_passages("asked?", []) == "asked?"
    turns = (Message("user", "asked?"),)
    assert with_passages(turns, []) is turns
