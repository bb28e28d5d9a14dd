"""Values that rows give their chat template, notes on fields it ignores, and the date it is given."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from chat_families import TALKS, family_codec, said, user, weighed
from chat_styles import byte_level
from parsed_rows import BOT, SYSTEM, TOOL, USER, parse_for, refused

import bottega
from bottega import objectives
from bottega.errors import DataError
from bottega.recipe.schema import Recipe
from bottega.records import Chat, Message, Posed, Preference, Unpaired
from bottega.runs.store import stored_place
from bottega.tokenization.codec import Codec
from bottega.training.dataset import build_dataset
from bottega.training.preview import token_pieces
from making import make_model, write_jsonl

QUIET = {"enable_thinking": False}
WORSE = {"role": "assistant", "content": "b"}
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
PLAIN = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"
DATED = "{{ strftime_now('%d %B %Y') }}" + PLAIN


def shown(codec: Codec, kind: str, fields: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    """Of each row of a record (all of it, what carries loss)."""
    objective = objectives.build_objective({"kind": kind, **more})
    ((rows),) = objective.rows(parse_for(fields, kind), codec)
    found = [token_pieces(row, codec.tokenizer) for row in rows]
    return [("".join(p.text for p in one), "".join(p.text for p in one if p.weight)) for one in found]


def test_values_for_the_template_reach_it_in_every_objective() -> None:
    codec = family_codec("qwen3")
    told: dict[str, Any]
    for told, thought in (({}, ""), ({"chat_template_kwargs": QUIET}, "<think>\n\n</think>\n\n")):
        talk = shown(codec, "sft", {"messages": [USER, BOT], **told})
        assert [learned_ for _, learned_ in talk] == [("" if thought else "<think>\n\n</think>\n\n") + "a<|im_end|>"]
        pair = {"prompt": [USER], "chosen": [BOT], "rejected": [WORSE], **told}
        assert shown(codec, "dpo", pair)[1][1].startswith("b" if thought else "<think>")
        assert shown(codec, "kto", {"prompt": [USER], "completion": [BOT], "label": True, **told})[0] == talk[0]
        posed = shown(codec, "grpo", {"prompt": [USER], "answer": "a", **told}, rewards="exact")
        assert posed[0][0].endswith(f"<|im_start|>assistant\n{thought}")


def test_values_for_the_template_are_checked() -> None:
    row = {"messages": [USER, BOT]}
    assert parse_for({**row, "chat_template_kwargs": '{"day": 3, "night": null}'}, "sft").variables == {"day": 3}
    for wrong in ("x", [1], {"messages": []}, {"tools": []}, {"a b": 1}, {"a": "\ud800"}):
        error = refused({**row, "chat_template_kwargs": wrong}, Chat)
        assert str(error.where).startswith("file line 1, field chat_template_kwargs")


@pytest.mark.parametrize("stamp", [date(2024, 1, 1), b"x"])
def test_extra_fields_of_a_message_need_not_be_json(stamp: object) -> None:
    codec = family_codec("qwen3")
    plain, stamped = (
        shown(codec, "sft", {"messages": [{**USER, **more}, {**BOT, **more}]}) for more in ({}, {"sent": stamp})
    )
    assert plain == stamped


@pytest.mark.parametrize(
    ("record", "names"),
    [
        (Chat("a", (user("q"), said("a", thinking="hm", mood="good"))), {"thinking": 1, "mood": 1}),
        (Chat("a", (user("q"), said("a")), (TOOL,)), {"tools": 1}),
        (Chat("a", (user("q"), said("a")), (), QUIET), {"enable_thinking": 1}),
        (Preference("a", (user("q"),), (said("a", mood="x"),), (said("b"),)), {"mood": 1}),
        (Unpaired("a", (user("q"),), (said("a"),), True, (TOOL,)), {"tools": 1}),
        (Posed("a", (Message("user", "q", more={"mood": "x"}),), "a", (TOOL,)), {"mood": 1, "tools": 1}),
        (Chat("a", (user("q"), said("a"))), {}),
    ],
)
def test_fields_that_the_template_ignores_are_noted(record: Any, names: dict[str, int]) -> None:
    tokenizer = byte_level(eos="</s>", template=PLAIN)
    codec = Codec(tokenizer, max_length=1000, too_long="error")
    if isinstance(record, Preference):
        codec.encode_pair(record)
    elif isinstance(record, Unpaired):
        codec.encode_completion(record.where, record.prompt, record.completion, record.tools)
    elif isinstance(record, Posed):
        codec.encode_prompt_row(record, 4)
    else:
        codec.encode_answers(record)
    assert dict(codec.tally.unused_fields) == names
    notes = [message for _, message in codec.notes()]
    assert len(notes) == bool(names)
    for name, count in names.items():
        assert f"{name} ({count})" in notes[0]
        assert "ignores these fields" in notes[0]


def test_fields_shown_with_the_whole_message_are_not_noted() -> None:
    template = PLAIN.replace("{{ m.content }}", "{{ m | tojson }}")
    codec = Codec(byte_level(eos="</s>", template=template), max_length=1000, too_long="error")
    codec.encode_answers(Chat("a", (user("q"), said("a", mood="good"))))
    assert codec.notes() == []


def test_a_prompt_that_opens_reasoning_which_answers_lack_is_noted() -> None:
    # The template cuts reasoning off what was said, and asks for an answer with the beginning of some.
    template = PLAIN.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}").replace(
        "<assistant>{% endif %}", "<assistant><think>\n{% endif %}"
    )
    codec = Codec(byte_level(special=["<think>"], eos="</s>", template=template), max_length=1000, too_long="error")
    _, found = weighed(codec, Chat("a", (user("q"), said("<think>\nhm\n</think>a"))))
    assert found == [("a</s>", 1.0)]
    assert [message for _, message in codec.notes()] == [
        "the chat template's generation prompt ends with '<think>', which 1 answers in the rows lack: "
        "training goes without it, generation will include it"
    ]
    kept = template.replace(".split('</think>')[-1]", "")
    codec = Codec(byte_level(special=["<think>"], eos="</s>", template=kept), max_length=1000, too_long="error")
    assert weighed(codec, Chat("a", (user("q"), said("<think>\nhm</think>a"))))[1] == [("hm</think>a</s>", 1.0)]
    assert codec.notes() == []


def test_a_prompt_that_counts_the_turns_ends_where_the_words_begin() -> None:
    head = "[{{ loop.index }} of {{ messages | length }}] {{ m.role }}: "
    last = "[{{ messages | length + 1 }} of {{ messages | length + 1 }}] assistant: "
    template = "{% for m in messages %}" + head + "{{ m.content }}</s>{% endfor %}"
    template += "{% if add_generation_prompt %}" + last + "{% endif %}"
    codec = Codec(byte_level(eos="</s>", merges=False, template=template), max_length=1000, too_long="error")
    text, found = weighed(codec, Chat("a", (user("q"), said("a"), user("r"), said("b"))))
    assert text.startswith("[1 of 4] user: q</s>[2 of 4] assistant: a</s>")
    assert found == [("a</s>", 1.0), ("b</s>", 1.0)]
    assert codec.notes() == []


def test_a_training_flag_on_a_question_is_noted() -> None:
    codec = Codec(byte_level(eos="</s>", template=PLAIN), max_length=1000, too_long="error")
    flagged = {"messages": [{**USER, "train": True}, {**BOT, "train": True}]}
    codec.encode_answers(parse_for(flagged, "sft"))
    assert "train (1)" in codec.notes()[0][1]
    codec = Codec(byte_level(eos="</s>", template=PLAIN), max_length=1000, too_long="error")
    codec.encode_answers(parse_for({"messages": [{**USER, "train": False, "weight": 0}, {**BOT, "weight": 1}]}, "sft"))
    assert codec.notes() == []


def test_the_day_of_a_run_is_one_of_its_choices(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama", template=DATED, max_position_embeddings=256)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"messages": [USER, BOT]}, {"messages": [SYSTEM, USER, WORSE]}])
    recipe = Recipe.parse(
        {
            "model": {"base": str(model), "dtype": "float32"},
            "data": {"train": str(rows)},
            "objective": {"kind": "sft"},
            "optim": {"steps": 1, "examples": 2},
        }
    )
    list(bottega.train(recipe, tmp_path / "run"))
    choices = (stored_place(tmp_path / "run") or {})["choices"]
    assert choices["day"] == date.today().isoformat()
    codec = build_dataset(recipe, choices | {"day": "2024-02-29"}).codec
    assert weighed(codec, Chat("a", (user("q"), said("a"))))[0].startswith("29 February 2024<user>")


def test_a_template_that_fails_on_a_value_names_the_row() -> None:
    codec = Codec(byte_level(eos="</s>", template="{{ 1 // n }}" + PLAIN), max_length=1000, too_long="error")
    with pytest.raises(DataError, match="refuses this conversation"):
        codec.encode_answers(Chat("rows line 3", (user("q"), said("a")), (), {"n": 0}))


def test_the_day_is_the_codecs_own() -> None:
    shown, _ = weighed(family_codec("granite"), Chat("here", TALKS["words"]))
    assert "Today is November 28, 2026." in shown
    later = replace_day(family_codec("granite"), date(2027, 1, 2))
    assert "Today is January 02, 2027." in weighed(later, Chat("here", TALKS["words"]))[0]


def replace_day(codec: Codec, day: date) -> Codec:
    return Codec(codec.tokenizer, max_length=codec.max_length, too_long="error", day=day)
