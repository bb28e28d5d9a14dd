"""Which record a row becomes, and which rows are refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from bottega import objectives
from bottega.errors import DataError, RecipeError
from bottega.records import (
    Chat,
    Choice,
    Compared,
    Entity,
    Labelled,
    Message,
    Paired,
    Posed,
    Preference,
    Prompted,
    Record,
    Tagged,
    Text,
    Unpaired,
)
from bottega.records.formats import load_formats
from bottega.records.messages import ROLES
from bottega.records.parser import parse_rows
from making import placed, shared_data

SFT = (Chat, Prompted, Text)

TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SPOKEN = (Message("user", "q"), Message("assistant", "a"))

FORMATS = load_formats()

ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": TALK},
    "instruction": {"instruction": "q", "output": "a"},
    "prompted": {"prompt": "q", "completion": "a"},
    "question": {"question": "q", "answer": "a"},
    "summary": {"source": "q", "summary": "a"},
    "preference": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "openai_preference": {
        "input": {"messages": TALK[:1]},
        "preferred_output": TALK[1:],
        "non_preferred_output": [{"role": "assistant", "content": "b"}],
    },
    "unpaired": {"prompt": "q", "completion": "a", "label": True},
    "labelled": {"text": "t", "label": "l"},
    "labelled_pair": {"sentence1": "a", "sentence2": "b", "label": "l"},
    "multilabelled": {"text": "t", "labels": ["l", "m"]},
    "conll": {"tokens": ["t"], "tags": ["O"]},
    "spans": {"text": "t", "spans": []},
    "paired": {"anchor": "a", "positive": "p"},
    "compared": {"sentence1": "a", "sentence2": "b", "score": 0.5},
    "choice": {"question": "q", "choices": ["a", "b"], "gold": 0},
    "lettered_choice": {"question": "q", "A": "a", "B": "b", "gold": "A"},
    "posed": {"prompt": "q"},
    "text": {"text": "t"},
}


def made(rows: Iterable[dict[str, Any]], *reads: type, **options: Any) -> list[Record]:
    numbered = ((f"file line {line}", fields) for line, fields in enumerate(rows, 1))
    return list(parse_rows(numbered, reads or SFT, **options))


def one(fields: dict[str, Any], *reads: type, **options: Any) -> Any:
    (record,) = made([fields], *reads, **options)
    return record


def refused(fields: dict[str, Any], *reads: type, what: str, where: str = "file line 1", **options: Any) -> DataError:
    with pytest.raises(DataError, match=what) as caught:
        made([fields], *reads, **options)
    assert caught.value.where is not None
    assert caught.value.where.startswith(where)
    assert caught.value.fix
    return caught.value


# Detection


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_an_example_here(name: str) -> None:
    assert {need[0] for need in FORMATS[name].required} <= set(ROWS[name])
    assert set(FORMATS) == set(ROWS)


@pytest.mark.parametrize("kind", sorted({*objectives.kinds()} - {"custom"}))
@pytest.mark.parametrize("name", FORMATS)
def test_a_row_is_recognised_where_the_objective_reads_it(name: str, kind: str) -> None:
    reads = objectives.load(kind).reads
    if FORMATS[name].record in reads:
        assert type(one(ROWS[name], *reads)) is FORMATS[name].record
        assert one(ROWS[name], *reads) == one(ROWS[name], *reads, format=name)
        return
    with pytest.raises(RecipeError, match=f"does not read {name} rows") as caught:
        one(ROWS[name], *reads, format=name)
    assert caught.value.where == "data.format"
    if Posed in reads and {"prompt", "question", "instruction", "messages"} & set(ROWS[name]):
        assert type(one(ROWS[name], *reads)) is Posed
    elif name in ("labelled", "multilabelled", "spans") and Text in reads:
        assert type(one(ROWS[name], *reads)) is Text
    elif name == "compared" and Labelled in reads:
        assert type(one(ROWS[name], *reads)) is Labelled
    elif name == "labelled_pair" and Compared in reads:
        refused(ROWS[name], *reads, what='score "l"')
    else:
        refused(ROWS[name], *reads, what="no format this objective reads")


@pytest.mark.parametrize(
    ("present", "reads", "record"),
    [
        (("messages", "instruction", "prompted", "text"), SFT, Chat),
        (("prompted", "text"), SFT, Prompted),
        (("instruction", "prompted"), SFT, Chat),
        (("preference", "instruction"), SFT, Chat),
        (("preference", "instruction"), (Preference,), Preference),
        (("labelled", "text"), (Labelled,), Labelled),
        (("labelled", "text"), (Text,), Text),
        (("text", "messages"), (Text, Chat), Text),
        (("text", "messages"), (Chat, Text), Chat),
    ],
)
def test_the_objectives_first_choice_is_taken(present: tuple[str, ...], reads: tuple[type, ...], record: type) -> None:
    fields = {key: value for name in present for key, value in ROWS[name].items()}
    assert type(one(fields, *reads)) is record


def test_messages_come_before_an_instruction() -> None:
    fields = ROWS["instruction"] | {"messages": [{"role": "assistant", "content": "other"}]}
    assert one(fields).messages == (Message("assistant", "other"),)


def test_what_is_not_recognised_names_fields_and_formats() -> None:
    error = refused({"query": "q", "reply": "a"}, *SFT, what="fields query, reply")
    assert "messages or instruction + output or question + answer" in str(error.fix)
    refused({}, *SFT, what="fields none")


def test_a_format_asked_for_must_have_its_fields() -> None:
    error = refused({"text": "t", "lable": "l"}, Labelled, what="no field label", format="labelled")
    assert error.fix == "did you mean lable?"
    assert error.where == "file line 1, field label"


def test_the_format_of_the_first_row_holds_for_all() -> None:
    assert [type(record) for record in made([{"text": "a"}, {"text": "b", "messages": TALK}])] == [Text, Text]


@pytest.mark.parametrize("name", FORMATS)
def test_a_later_row_without_a_field_is_a_data_error(name: str) -> None:
    for field in ROWS[name]:
        short = {key: value for key, value in ROWS[name].items() if key != field}
        with pytest.raises(DataError, match=field) as caught:
            made([ROWS[name], short], FORMATS[name].record, format=name)
        assert str(caught.value.where).startswith("file line 2")
        with pytest.raises(DataError, match="no field"):
            made([ROWS[name], {}], FORMATS[name].record)


def test_unsound_rows_may_be_left_out() -> None:
    found: list[DataError] = []
    rows = [{"text": "a"}, {"text": ""}, {"text": 7}, {"txt": "b"}, {"text": "c"}]
    kept = made(rows, Text, on_bad=found.append)
    assert kept == [Text("file line 1", "a"), Text("file line 5", "c")]
    assert [error.where for error in found] == [f"file line {line}, field text" for line in (2, 3, 4)]


def test_an_unsound_first_row_may_be_left_out() -> None:
    found: list[DataError] = []
    kept = made([{"text": " "}, {"text": "a"}], Text, on_bad=found.append)
    assert kept == [Text("file line 2", "a")]
    assert [error.where for error in found] == ["file line 1, field text"]


def test_a_recipe_error_is_never_left_out() -> None:
    with pytest.raises(RecipeError):
        made([ROWS["text"]], Chat, format="text", on_bad=lambda error: None)


# Mapping


def test_fields_are_renamed() -> None:
    fields = {"question": "q", "answer": "a", "id": 7}
    assert one(fields, mapping={"prompt": "question", "completion": "answer"}) == Prompted("file line 1", "q", "a")
    assert one(fields, mapping={"instruction": "question", "output": "answer"}).messages == SPOKEN


def test_fields_may_be_exchanged() -> None:
    fields = {"prompt": "a", "completion": "q"}
    swapped = one(fields, mapping={"prompt": "completion", "completion": "prompt"})
    assert swapped == Prompted("file line 1", "q", "a")


def test_a_renamed_field_replaces_ours() -> None:
    row = {"chosen": "a", "rejected": "b", "prompt": "q", "best": "c"}
    assert one(row, Preference, mapping={"chosen": "best"}).chosen == "c"


def test_one_field_may_serve_twice() -> None:
    assert one({"t": "a"}, mapping={"prompt": "t", "completion": "t"}) == Prompted("file line 1", "a", "a")


def test_a_field_that_moved_is_no_longer_there() -> None:
    """`text` becomes the prompt, so what is left is not a text row."""
    refused({"text": "a"}, Text, what="no format", mapping={"prompt": "text"})


def test_a_mapping_to_a_field_that_is_not_there() -> None:
    error = refused({"question": "q"}, what="no field qestion", mapping={"prompt": "qestion"})
    assert error.fix == "did you mean question?"
    error = refused({"a": "q"}, what="no field zzz", mapping={"prompt": "zzz"})
    assert error.fix == "the row has a"


def test_the_mapping_holds_for_every_row() -> None:
    with pytest.raises(DataError) as caught:
        made([{"q": "a"}, {"text": "a"}], mapping={"text": "q"})
    assert caught.value.where == "file line 2, field q"


def test_labels_may_be_mapped() -> None:
    assert one({"text": "t", "category": "c"}, Labelled, mapping={"label": "category"}).label == "c"


# Text templates


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
def test_what_is_no_template_is_a_recipe_error(template: str) -> None:
    with pytest.raises(RecipeError) as caught:
        one({"q": "why", "w": "4", "": "x"}, text_template=template)
    assert caught.value.where == "data.text_template"
    assert caught.value.fix


def test_a_template_needs_an_objective_that_reads_text() -> None:
    for reads in ((Preference,), (Labelled,)):
        with pytest.raises(RecipeError, match=r"text_template|does not read"):
            made([ROWS["preference"] | ROWS["labelled"]], *reads, text_template="{text}")


def test_a_value_that_is_no_string() -> None:
    error = refused({"q": 7, "a": "so"}, what="q is a number, not a string", text_template="{q}|{a}")
    assert error.where == "file line 1, field q"


# Prompt and completion, text


def test_a_prompt_may_be_empty_and_a_completion_may_not() -> None:
    assert one({"prompt": "", "completion": " a\n"}) == Prompted("file line 1", "", " a\n")
    refused({"prompt": "q", "completion": " \n"}, what="empty completion", where="file line 1, field completion")


@pytest.mark.parametrize("value", [None, 1, 1.5, True, ["a"], {"a": "b"}])
def test_texts_are_strings(value: Any) -> None:
    for name, field in (
        ("text", "text"),
        ("prompted", "prompt"),
        ("prompted", "completion"),
        ("instruction", "output"),
    ):
        refused(ROWS[name] | {field: value}, what="not a string", where=f"file line 1, field {field}")


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_texts_are_not_empty(text: str) -> None:
    refused({"text": text}, what="empty text", where="file line 1, field text")


def test_texts_are_kept_as_they_are() -> None:
    assert one({"text": "  a \r\n"}).text == "  a \r\n"


# Instructions


def test_instructions_become_conversations() -> None:
    whole = {"system": "s", "instruction": "q", "input": "i", "output": "a"}
    assert one(whole).messages == (Message("system", "s"), Message("user", "q\n\ni"), Message("assistant", "a"))


@pytest.mark.parametrize("nothing", ["", None, " ", "\n"])
def test_an_empty_input_or_system_is_none(nothing: Any) -> None:
    assert one(ROWS["instruction"] | {"input": nothing, "system": nothing}).messages == SPOKEN


def test_an_instruction_is_needed() -> None:
    refused(ROWS["instruction"] | {"instruction": " "}, what="empty instruction")
    refused(ROWS["instruction"] | {"output": ""}, what="empty output")
    refused(ROWS["instruction"] | {"input": 7}, what="not a string", where="file line 1, field input")


def test_pairs_with_what_does_not_belong() -> None:
    row = {"query": "a", "pos": "b", "negatives": ["c", "d"], "label": 7}
    assert one(row, Paired) == Paired("file line 1", "a", "b", ("c", "d"), "7")
    assert one({"anchor": "a", "positive": "b", "negative": "c"}, Paired).negatives == ("c",)
    several = {"anchor": "a", "positive": "b", "negatives": None, "neg": "c", "negative_1": "d", "negative_2": "e"}
    assert one(several, Paired).negatives == ("c", "d", "e")
    refused({"anchor": "a", "positive": "b", "negative": "b"}, Paired, what="positive among the negatives")
    refused({"anchor": "a", "positive": " "}, Paired, what="empty positive")
    refused({"anchor": "a", "positive": "b", "negatives": [3]}, Paired, what="negatives is a number")


def test_scores_are_from_0_to_1() -> None:
    assert one({"text1": "a", "text2": "b", "label": 1}, Compared) == Compared("file line 1", "a", "b", 1.0)
    assert one({"sentence1": "a", "sentence2": "b", "score": "0.25"}, Compared).score == 0.25
    for wrong in (-0.1, 4.5, "much", None, [1], float("nan"), 10**400):
        refused({"sentence1": "a", "sentence2": "b", "score": wrong}, Compared, what="score")


# Messages


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_read(role: str) -> None:
    talk = [{"role": role, "content": "x"}, *TALK]
    assert one({"messages": talk}).messages == (Message(role, "x"), *SPOKEN)


def test_weights_are_read() -> None:
    talk = [dict(turn, weight=weight) for turn, weight in zip(TALK * 2, (1, 0, 0.5, 2), strict=True)]
    assert [message.weight for message in one({"messages": talk}).messages] == [1.0, 0.0, 0.5, 2.0]


@pytest.mark.parametrize("weight", [-1, -0.5, "1", True, [1], float("nan"), float("inf")])
def test_a_weight_is_a_number_from_0_up(weight: Any) -> None:
    refused(
        {"messages": [TALK[0], TALK[1] | {"weight": weight}]}, what="weight", where="file line 1, field messages[1]"
    )


def test_json_has_ways_to_write_a_weight_that_is_no_number() -> None:
    turn = json.loads('{"role": "assistant", "content": "a", "weight": NaN}')
    refused({"messages": [TALK[0], turn]}, what="weight")


@pytest.mark.parametrize("talk", [None, "hello", [], {}, 7])
def test_messages_are_a_list(talk: Any) -> None:
    refused({"messages": talk}, what="not a list of messages", where="file line 1, field messages")


@pytest.mark.parametrize(
    ("turn", "what"),
    [
        ("hello", "without role or content"),
        (None, "without role or content"),
        ({"role": "user"}, "without role or content"),
        ({"content": "x"}, "without role or content"),
        ({"from": "human"}, "without role or content"),
        ({"role": "narrator", "content": "x"}, "unknown role 'narrator'"),
        ({"role": None, "content": "x"}, "unknown role None"),
        ({"role": ["user"], "content": "x"}, "unknown role"),
        ({"role": "user", "content": None}, "not a string"),
        ({"role": "user", "content": {"type": "text", "text": "x"}}, "not a string"),
        ({"role": "assistant", "content": ""}, "empty content"),
        ({"role": "assistant", "content": " \n"}, "empty content"),
    ],
)
def test_messages_are_checked(turn: Any, what: str) -> None:
    refused({"messages": [*TALK, turn]}, what=what, where="file line 1, field messages[2]")


def test_only_answers_must_say_something() -> None:
    talk = [{"role": "system", "content": ""}, {"role": "user", "content": " "}, TALK[1]]
    assert one({"messages": talk}).messages == (Message("system", ""), Message("user", " "), SPOKEN[1])


def test_a_conversation_needs_an_answer() -> None:
    refused({"messages": TALK[:1]}, what="no assistant message", where="file line 1, field messages")


# Preferences


def test_preferences_of_strings() -> None:
    assert one(ROWS["preference"], Preference) == Preference("file line 1", "q", "a", "b")
    asked = one({"instruction": "q", "input": "i", "chosen": "a", "rejected": "b"}, Preference)
    assert asked == Preference("file line 1", (Message("user", "q\n\ni"),), "a", "b")
    asked = one({"prompt": TALK[:1], "chosen": "a", "rejected": "b"}, Preference)
    assert asked == Preference("file line 1", (SPOKEN[0],), "a", "b")


def talk_to(answer: str, *before: dict[str, str]) -> list[dict[str, str]]:
    return [*before, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    "fields",
    [
        {"chosen": talk_to("a", TALK[0]), "rejected": talk_to("b", TALK[0])},
        {"prompt": TALK[:1], "chosen": talk_to("a"), "rejected": talk_to("b")},
        {"prompt": "q", "chosen": talk_to("a", TALK[0]), "rejected": talk_to("b", TALK[0])},
    ],
    ids=["implicit", "explicit", "prompt-repeated"],
)
def test_preferences_of_conversations(fields: dict[str, Any]) -> None:
    assert one(fields, Preference) == Preference("file line 1", (SPOKEN[0],), "a", "b")


def test_a_prompt_of_text_is_not_lost_beside_answers_of_messages() -> None:
    record = one({"prompt": "q", "chosen": talk_to("a"), "rejected": talk_to("b")}, Preference)
    assert record == Preference("file line 1", (SPOKEN[0],), "a", "b")


def test_preferences_after_several_turns() -> None:
    fields = {"chosen": talk_to("c", *TALK, TALK[0]), "rejected": talk_to("d", *TALK, TALK[0])}
    assert one(fields, Preference) == Preference("file line 1", (*SPOKEN, SPOKEN[0]), "c", "d")


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen equal to rejected"),
        ({"chosen": talk_to("a", TALK[0]), "rejected": talk_to("a", TALK[0])}, "chosen equal to rejected"),
        ({"chosen": "a", "rejected": "b"}, "no field prompt"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "empty rejected"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, "not a string"),
        ({"prompt": "q", "chosen": "a", "rejected": talk_to("b")}, "not a string"),
        ({"chosen": talk_to("a", TALK[0]), "rejected": "b"}, "not a list of messages"),
        ({"chosen": talk_to("a", TALK[0]), "rejected": talk_to("b")}, "before an assistant message"),
        ({"chosen": TALK[:1], "rejected": talk_to("b")}, "before an assistant message"),
        ({"chosen": [], "rejected": talk_to("b")}, "not a list of messages"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "not a list of messages"),
    ],
)
def test_preferences_are_checked(fields: dict[str, Any], what: str) -> None:
    refused(fields, Preference, what=what)


# Labels


@pytest.mark.parametrize(("label", "name"), [("l", "l"), (3, "3"), (0, "0"), (-1, "-1"), (0.5, "0.5")])
def test_labels_are_names(label: Any, name: str) -> None:
    assert one({"text": "t", "label": label}, Labelled) == Labelled("file line 1", "t", name)


@pytest.mark.parametrize("label", [None, "", " ", ["a"], {"a": 1}])
def test_labels_are_checked(label: Any) -> None:
    refused({"text": "t", "label": label}, Labelled, what="label", where="file line 1, field label")


# Other names


@pytest.mark.parametrize(
    ("fields", "reads", "same_as"),
    [
        ({"conversations": TALK}, SFT, "messages"),
        ({"instruction": "q", "response": "a"}, SFT, "instruction"),
        ({"instruction": "q", "response": "a", "context": ""}, SFT, "instruction"),
        ({"question": "q", "answers": ["a", "b"]}, SFT, "question"),
        ({"question": "q", "answers": [{"text": "a", "answer_start": 3}], "id": "7"}, SFT, "question"),
        ({"question": "q", "answers": {"text": ["a"], "answer_start": [3]}}, SFT, "question"),
        ({"article": "q", "highlights": "a"}, SFT, "summary"),
        ({"source": ["q"], "target": ["a", "b"]}, SFT, "summary"),
        ({"prompt": "q", "response": "a"}, SFT, "prompted"),
        ({"sentence": "t", "category": "l"}, (Labelled,), "labelled"),
        ({"words": ["t"], "ner_tags": ["O"]}, (Tagged,), "conll"),
        ({"text": "t", "entities": []}, (Tagged,), "spans"),
        ({"query": "q", "options": ["a", "b"], "answer": "A"}, (Choice,), "choice"),
        (
            {"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "1"},
            (Choice,),
            "choice",
        ),
        ({"prompt": "q", "completion": "a", "label": "True"}, (Unpaired,), "unpaired"),
    ],
)
def test_a_field_may_have_another_name(fields: dict[str, Any], reads: tuple[type, ...], same_as: str) -> None:
    assert one(fields, *reads) == one(ROWS[same_as], *reads)


def test_an_error_speaks_of_fields_by_the_files_names() -> None:
    error = refused({"text": "t", "category": ["x"]}, Labelled, what="not a string")
    assert error.where == "file line 1, field category"


def test_the_format_that_needs_most_is_taken() -> None:
    reads = objectives.load("sft").reads
    assert type(one(ROWS["unpaired"], *reads)) is Unpaired
    assert type(one({**ROWS["unpaired"], "label": "spam"}, *reads)) is Prompted, "a class is no verdict"
    assert type(one({"question": "q", "choices": ["a", "b"], "answer": "a"}, *reads)) is Choice


def test_the_format_recognised_is_told_once() -> None:
    told: list[tuple[str, list[str]]] = []
    made([ROWS["prompted"]] * 3, on_format=lambda name, fields: told.append((name, list(fields))))
    assert told == [("prompted", ["prompt", "completion"])]


# ShareGPT, tools, parts


def test_sharegpt_conversations() -> None:
    fields = {
        "system": "be brief",
        "conversations": [
            {"from": "human", "value": "weather?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
            {"from": "observation", "value": "sun"},
            {"from": "gpt", "value": "Sun."},
        ],
        "tools": '[{"name": "weather", "parameters": {}}]',
    }
    record = one(fields, Chat)
    assert [message.role for message in record.messages] == ["system", "user", "assistant", "tool", "assistant"]
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    assert record.messages[2].more == {"tool_calls": [call]}
    assert record.tools == ({"type": "function", "function": {"name": "weather", "parameters": {}}},)


def test_openai_messages_with_tools() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    fields = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "7", "tool_call_id": "c1"},
            {"role": "assistant", "content": "seven", "weight": None, "tool_calls": None},
        ],
        "tools": [tool],
    }
    record = one(fields, Chat)
    assert [message.content for message in record.messages] == ["ab", "", "7", "seven"]
    assert [message.weight for message in record.messages] == [1, 0, 1, 1]
    assert record.messages[1].more["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert record.messages[2].more == {"tool_call_id": "c1"}
    assert record.tools == (tool,)


@pytest.mark.parametrize(
    ("turn", "what"),
    [
        ({"role": "assistant", "tool_calls": "f"}, "not a list"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "without a name"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}, "not JSON"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}, "not text"),
        ({"from": "function_call", "value": "f()"}, "not JSON"),
        ({"from": "narrator", "value": "x"}, "unknown role"),
    ],
)
def test_calls_and_parts_are_checked(turn: dict[str, Any], what: str) -> None:
    refused({"messages": [{"role": "user", "content": "q"}, turn]}, Chat, what=what)


def test_tools_are_checked() -> None:
    refused({"messages": TALK, "tools": "{x"}, Chat, what="not JSON")
    refused({"messages": TALK, "tools": 5}, Chat, what="not a list")


# Preferences in other clothes


def test_transcripts_of_text_share_their_prompt() -> None:
    start = "\n\nHuman: hi there\n\nAssistant:"
    record = one({"chosen": f"{start} Hello!", "rejected": f"{start} Hey you"}, Preference)
    assert (record.prompt, record.chosen, record.rejected) == (start, " Hello!", " Hey you")
    record = one({"chosen": "the cat sat", "rejected": "the car sat"}, Preference)
    assert (record.prompt, record.chosen, record.rejected) == ("the ", "cat sat", "car sat")


def test_transcripts_may_part_before_the_end() -> None:
    better = [*TALK, {"role": "user", "content": "more"}, {"role": "assistant", "content": "c"}]
    worse = [TALK[0], {"role": "assistant", "content": "b"}]
    record = one({"chosen": better, "rejected": worse}, Preference)
    assert record.prompt == SPOKEN[:1]
    assert record.rejected == "b"
    assert [message.content for message in record.chosen] == ["a", "more", "c"]


def test_preferences_of_openai() -> None:
    assert one(ROWS["openai_preference"], Preference) == Preference("file line 1", SPOKEN[:1], "a", "b")
    refused({**ROWS["openai_preference"], "input": "q"}, Preference, what="no messages")


# Unpaired, spans, choices


def test_unpaired_answers() -> None:
    assert one(ROWS["unpaired"], Unpaired) == Unpaired("file line 1", "q", "a", True)
    talk = one({"prompt": TALK[:1], "completion": TALK[1:], "label": False}, Unpaired)
    assert talk == Unpaired("file line 1", SPOKEN[:1], "a", False)
    refused({**ROWS["unpaired"], "label": 3}, Unpaired, what="label 3", format="unpaired")


def test_tags_become_spans() -> None:
    tokens, tags = ["Ada", "Byron", "saw", "Rome", "Turin"], ["B-who", "I-who", "O", "B-place", "B-place"]
    record = one({"tokens": tokens, "tags": tags}, Tagged)
    assert record.text == "Ada Byron saw Rome Turin"
    assert [record.text[span.start : span.stop] for span in record.spans] == ["Ada Byron", "Rome", "Turin"]
    assert [span.label for span in record.spans] == ["who", "place", "place"]
    other = one({"tokens": tokens, "tags": ["I-who", "L-who", "O", "S-place", "U-place"]}, Tagged)
    assert other.spans == record.spans
    refused({"tokens": tokens, "tags": tags[:4]}, Tagged, what="not as many tags")
    refused({"tokens": ["a"], "tags": ["who"]}, Tagged, what="tag 'who'")


def test_spans_are_of_the_text() -> None:
    spans = [{"start": 4, "end": 7, "label": "b"}, {"start": 0, "end": 3, "type": "a"}]
    assert one({"text": "one two", "spans": spans}, Tagged).spans == (Entity(0, 3, "a"), Entity(4, 7, "b"))
    for wrong in (
        {"start": 0, "end": 8, "label": "a"},
        {"start": 2, "end": 2, "label": "a"},
        {"start": 0, "end": 2},
        7,
    ):
        refused({"text": "one two", "spans": [wrong]}, Tagged, what="does not fit the text")
    overlap = [{"start": 0, "end": 5, "label": "a"}, {"start": 4, "end": 7, "label": "b"}]
    refused({"text": "one two", "spans": overlap}, Tagged, what="overlap")


@pytest.mark.parametrize("gold", [1, "B", "b", "B text"])
def test_choices(gold: Any) -> None:
    fields = {"question": "q", "choices": ["A text", "B text"], "gold": gold}
    if gold == "b":
        refused(fields, Choice, what="none of the 2")
    else:
        assert one(fields, Choice) == Choice("file line 1", "q", ("A text", "B text"), 1)


def test_choices_are_checked() -> None:
    refused({"question": "q", "choices": ["a"], "gold": 0}, Choice, what="fewer than two")
    for gold in (2, -1, True, None):
        refused({"question": "q", "choices": ["x", "y"], "gold": gold}, Choice, what="none of the 2")


# Real files


@pytest.mark.parametrize(
    ("name", "options", "reads", "record", "count"),
    [
        ("rasbt_instruct_1100/instruction-data.json", {}, SFT, Chat, 1100),
        ("gsm8k/test.jsonl", {"mapping": {"prompt": "question", "completion": "answer"}}, SFT, Prompted, 1319),
        ("gsm8k/test.jsonl", {"text_template": "Q: {question}\nA: {answer}"}, SFT, Text, 1319),
        ("banking77/test.csv", {"mapping": {"label": "category"}}, (Labelled,), Labelled, 3080),
        ("banking77/test.csv", {}, (Text,), Text, 3080),
        ("tinyshakespeare/input.txt", {}, (Text,), Text, 1),
        ("gsm8k/test.jsonl", {}, SFT, Chat, 1319),
        ("banking77/test.csv", {}, (Labelled,), Labelled, 3080),
        ("wnut17/wnut17train.conll", {}, (Tagged,), Tagged, 3394),
        ("scitldr_a/dev.jsonl", {}, SFT, Chat, 619),
        ("xquad_en/xquad.en.json", {}, SFT, Chat, 1190),
        ("arc_easy/arc_easy.jsonl", {}, (*SFT, Choice), Choice, 2376),
    ],
)
def test_real_files(name: str, options: dict[str, Any], reads: tuple[type, ...], record: type, count: int) -> None:
    found = list(parse_rows(placed(shared_data(name)), reads, **options))
    assert len(found) == count
    assert {type(each) for each in found} == {record}


def test_real_preferences_hold_six_pairs_without_one() -> None:
    found: list[DataError] = []
    rows = placed(shared_data("rasbt_preference_1100/instruction-data-with-preference.json"))
    kept = list(parse_rows(rows, (Preference,), on_bad=found.append))
    assert len(kept) == 1094
    assert {error.what for error in found} == {"chosen equal to rejected"}
