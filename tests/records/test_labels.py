"""Records of labelled texts, and one name for a label however it is written."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from bottega.records import Compared, Entity, Labelled, Message, Multilabelled, Paired, Record, Tagged, label_name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1.0", "1"),
        ("1.00", "1"),
        (-0.0, "0"),
        (1.5, "1.5"),
        ("1.5", "1.5"),
        ("007", "007"),
        ("10", "10"),
        (True, "true"),
        ("True", "true"),
        ("FALSE", "false"),
        ("Trueish", "Trueish"),
        (1e300, "1e+300"),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (["a"], None),
    ],
)
def test_a_label_is_one_however_it_is_written(value: Any, name: str | None) -> None:
    assert label_name(value) == name


def test_an_integer_beyond_the_precision_of_floats_keeps_its_digits() -> None:
    assert label_name(2**60 + 1) == "1152921504606846977"
    assert label_name(float(2**60)) == "1.152921504606847e+18"
    assert label_name(Decimal("2.0")) == "2"
    assert label_name(Decimal("NaN")) is None


SPANS = (Entity(0, 3, "PER"), Entity(7, 11, "LOC"))
RECORDS = [
    Labelled("here", "t", "a"),
    Multilabelled("here", "t", ("b", "a")),
    Tagged("here", "Ida in Oslo", SPANS),
    Paired("here", "t", "p", ("n",), "a"),
    Compared("here", "t", "u", 0.5),
]


@pytest.mark.parametrize(
    ("record", "names", "texts"),
    [
        *zip(
            RECORDS,
            [["a"], ["b", "a"], ["PER", "LOC"], [], []],
            [("t",), ("t",), ("Ida in Oslo",), ("t", "p", "n"), ("t", "u")],
            strict=True,
        )
    ],
    ids=lambda value: type(value).__name__,
)
def test_label_names_and_texts(record: Record, names: list[str], texts: tuple[str, ...]) -> None:
    assert list(record.label_names) == names
    assert record.input_texts[: len(texts)] == texts
    assert record.prompt_key == texts[0]
    encoded = [text for text, _ in record.texts_to_encode()]
    assert encoded == ([] if isinstance(record, Tagged) else list(texts))


@pytest.mark.parametrize(
    ("record", "other"),
    [
        *zip(
            RECORDS,
            [
                Labelled("here", "t", "b"),
                Multilabelled("here", "t", ("a",)),
                Tagged("here", "Ida in Oslo", SPANS[:1]),
                Paired("here", "t", "p", ("n",), "b"),
                Compared("here", "t", "u", 0.25),
            ],
            strict=True,
        )
    ],
    ids=lambda value: type(value).__name__,
)
def test_records_that_teach_something_else_differ_in_their_parts(record: Record, other: Record) -> None:
    assert record.parts() != other.parts()
    assert (record.parts().content, record.parts().extras == other.parts().extras) == (other.parts().content, False)


def test_the_order_of_several_labels_makes_no_difference() -> None:
    assert (
        Multilabelled("here", "t", ("b", "a")).parts().answer == Multilabelled("here", "t", ("a", "b")).parts().answer
    )


def test_added_white_space_makes_no_difference_to_what_spans_teach() -> None:
    moved = Tagged("here", "  Ida in Oslo", tuple(Entity(s + 2, e + 2, label) for s, e, label in SPANS))
    assert moved.parts().extras == RECORDS[2].parts().extras


def test_a_text_with_spans_as_a_conversation() -> None:
    chat = Tagged("here", "Ida à Oslo", (Entity(4, 5, "à"), Entity(6, 10, "LOC"))).as_chat()
    assert chat.messages[0] == Message("user", "Ida à Oslo")
    assert chat.messages[1].content == '[{"label": "à", "text": "à"}, {"label": "LOC", "text": "Oslo"}]'
    assert Tagged("here", "t", ()).as_chat().messages[1].content == "[]"
