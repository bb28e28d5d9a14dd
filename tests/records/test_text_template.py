"""Texts that a `text_template` builds from the fields of a row."""

from __future__ import annotations

import pytest
from parsed_rows import ROWS, one, parse, refused

from bottega.errors import RecipeError
from bottega.records import (
    Labelled,
    Preference,
    Text,
)


def test_a_template_builds_texts_and_marks_the_answer() -> None:
    record = one({"q": "why", "a": "so"}, text_template="Q: {q}\nA: {a}\n")
    assert record == Text("file line 1", "Q: why\nA: so\n", answer=len("Q: why\nA: "))
    assert record.prompt_key == "Q: why\nA: "


@pytest.mark.parametrize(
    ("template", "text", "answer"),
    [
        ("{a}", "so", 0),
        ("{q}{a}", "whyso", 3),
        ("{q} {q}: {a}", "why why: so", 9),
        ("{a} because {a}", "so because so", 11),
        ("{{q}} {q} {a}", "{q} why so", 8),
        ("{q} {{{a}}}", "why {so}", 5),
        ("{q} {a} {{a}}", "why so {a}", 4),
        ("{q} {a} {{end}}", "why so {end}", 4),
    ],
)
def test_templates(template: str, text: str, answer: int) -> None:
    assert one({"q": "why", "a": "so"}, text_template=template) == Text("file line 1", text, answer=answer)


def test_braces_in_values_are_text() -> None:
    record = one({"q": "{a} {", "a": "} {q}"}, text_template="{q}|{a}")
    assert record == Text("file line 1", "{a} {|} {q}", answer=6)


def test_a_prompt_field_may_be_empty_and_the_answer_may_not() -> None:
    assert one({"q": "", "a": "so"}, text_template="{q}|{a}").text == "|so"
    refused({"q": "why", "a": " "}, what="empty a", where="file line 1, field a", text_template="{q}|{a}")


def test_a_template_names_fields_of_the_row() -> None:
    error = refused({"question": "q", "a": "so"}, what="no field qestion", text_template="{qestion} {a}")
    assert error.fix == "did you mean question?"


def test_a_template_reads_renamed_fields() -> None:
    assert one({"x": "why", "a": "so"}, text_template="{q}: {a}", mapping={"q": "x"}).text == "why: so"


def test_field_names_are_taken_as_they_are() -> None:
    """As the headers of a table may be."""
    fields = {"q.1": "why", "0": "oh", "a b": "well", "c[0]": "so"}
    record = one(fields, text_template="{q.1} {0} {a b}: {c[0]}")
    assert record == Text("file line 1", "why oh well: so", answer=len("why oh well: "))


@pytest.mark.parametrize(
    "template", ["no field", "", "{q", "q}", "{q} {", "{{q}}", "{}", "{q} {}", "{q:{w}}", "{q!z}", "{q!s}", "{q:>4}"]
)
def test_an_invalid_template_is_a_recipe_error(template: str) -> None:
    with pytest.raises(RecipeError) as caught:
        one({"q": "why", "w": "4", "": "x"}, text_template=template)
    assert caught.value.where == "data.text_template"
    assert caught.value.fix


def test_a_template_needs_an_objective_that_reads_text() -> None:
    for reads in ((Preference,), (Labelled,)):
        with pytest.raises(RecipeError, match=r"text_template|does not read"):
            parse([ROWS["preference"] | ROWS["labelled"]], *reads, text_template="{text}")


def test_a_value_must_be_a_string() -> None:
    error = refused({"q": 7, "a": "so"}, what="q is a number, not a string", text_template="{q}|{a}")
    assert error.where == "file line 1, field q"
