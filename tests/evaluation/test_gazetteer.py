"""A tagger without a model, which marks known entities again."""

from __future__ import annotations

from bottega.evaluation.gazetteer import Gazetteer
from bottega.records import Entity, Tagged

TEXT = "Ada Lovelace met Charles in New York"
RECORD = Tagged("one", TEXT, (Entity(0, 12, "person"), Entity(28, 36, "place")))


def test_known_entities_are_marked_again_in_any_case() -> None:
    known = Gazetteer([RECORD, Tagged("two", "New Zealand", (Entity(0, 11, "place"),))])
    text = "In new york, Ada Lovelace saw a new Zealand flag in New Haven"
    assert [(text[one.start : one.stop], one.label) for one in known.spans(text)] == [
        ("new york", "place"),
        ("Ada Lovelace", "person"),
        ("new Zealand", "place"),
    ]
    assert not list(Gazetteer([]).spans(text))


def test_entities_are_found_in_text_without_spaces_and_in_any_normal_form() -> None:
    known = Gazetteer([Tagged("1", "田中は東京へ", (Entity(0, 2, "PER"), Entity(3, 5, "LOC")))])
    text = "昨日東京で田中と会った"
    assert [(text[one.start : one.stop], one.label) for one in known.spans(text)] == [("東京", "LOC"), ("田中", "PER")]
    accented = Gazetteer([Tagged("1", "Zu\u0308rich", (Entity(0, 7, "LOC"),))])
    assert list(accented.spans("in Zürich")) == [Entity(3, 9, "LOC")]


def test_an_entity_has_its_most_frequent_label_and_the_longest_one_is_marked() -> None:
    texts = [("Rome", "person"), ("Rome", "place"), ("Rome", "place"), ("Rome Station", "building")]
    known = Gazetteer(Tagged(text, text, (Entity(0, len(text), label),)) for text, label in texts)
    text = "Rome, Rome Station Rome"
    assert [(text[start:stop], label) for start, stop, label in known.spans(text)] == [
        ("Rome", "place"), ("Rome Station", "building"), ("Rome", "place"),
    ]  # fmt: skip
