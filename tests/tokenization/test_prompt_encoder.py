"""The tokens that an answer is generated from, and what ends it."""

from __future__ import annotations

from typing import Any

import pytest
from chat_styles import NAMES, STYLES, byte_level, codec, tokenizer_of, turns, user

from bottega.errors import DataError
from bottega.records import Chat, Message, Posed, Unusable

PROMPT = (user("What is it?"), Message("assistant", "the cat"), user("And?"))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"mistral", "mistral-plain", "llama2"}))
def test_a_conversation_ends_with_the_generation_prompt(name: str) -> None:
    tokenizer = tokenizer_of(name)
    wanted = tokenizer.apply_chat_template(turns(PROMPT), add_generation_prompt=True, tokenize=True, return_dict=True)
    assert codec(tokenizer).encode_prompt(PROMPT) == wanted["input_ids"]


@pytest.mark.parametrize("name", ["mistral", "mistral-plain", "llama2"])
def test_without_a_generation_prompt_a_conversation_ends_where_an_answer_begins(name: str) -> None:
    tokenizer = tokenizer_of(name, merges=False)
    answered = tokenizer.apply_chat_template(turns((*PROMPT, Message("assistant", "X"))), tokenize=False)
    found = tokenizer.decode(codec(tokenizer).encode_prompt(PROMPT))
    assert found == answered[: answered.rindex("X")]


@pytest.mark.parametrize("adds_eos", [False, True])
def test_a_text_is_continued_where_it_ends(adds_eos: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, adds_eos=adds_eos)
    reader = codec(tokenizer)
    for text in ("the cat", "<s>the cat"):
        assert tokenizer.decode(reader.encode_prompt(text)) == "<s>the cat"
    ends = codec(byte_level(bos="<s>", eos="</s>", adds_bos=True)).encode_prompt("the cat</s>")
    assert ends[-1] == tokenizer.eos_token_id, "an end that the prompt itself contains stays"


@pytest.mark.parametrize(("bos", "eos", "start"), [("<s>", "</s>", "<s>"), (None, "</s>", "</s>"), (None, None, None)])
def test_an_empty_prompt_starts_with_the_beginning_or_the_end_of_a_text(
    bos: str | None, eos: str | None, start: str | None
) -> None:
    tokenizer = byte_level(bos=bos, eos=eos)
    wanted = [] if start is None else [tokenizer.convert_tokens_to_ids(start)]
    assert codec(tokenizer).encode_prompt("") == wanted


def test_the_row_of_a_prompt_predicts_the_first_token_of_an_answer() -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, merges=False)
    row = codec(tokenizer).encode_prompt_row(Posed("here", "abc"), 4)
    assert tokenizer.decode(row.tokens.tolist()) == "<s>abc"
    assert row.at.tolist() == [3]
    assert row.source is None


def test_an_encoder_decoder_reads_the_prompt_as_a_whole() -> None:
    tokenizer = byte_level(eos="</s>", adds_eos=True, merges=False)
    row = codec(tokenizer, decoder_start=7, max_length=5).encode_prompt_row(Posed("here", "abcd"), 100)
    assert row.source is not None
    assert tokenizer.decode(row.source.tolist()) == "abcd</s>"
    assert (row.tokens.tolist(), row.at.tolist()) == ([7], [0])


def test_a_long_prompt_leaves_room_for_the_answer() -> None:
    tokenizer = byte_level(bos="<s>", adds_bos=True, merges=False)
    for policy in ("shorten", "truncate"):
        limited = codec(tokenizer, max_length=9, too_long=policy)
        row = limited.encode_prompt_row(Posed("here", "abcdefgh"), 4)
        assert tokenizer.decode(row.tokens.tolist()) == "<s>efgh"
        assert limited.tally.truncated == 1


@pytest.mark.parametrize(
    ("options", "prompt", "error", "what"),
    [
        ({"max_length": 9, "too_long": "drop"}, "abcdefgh", Unusable, "longer than max_length 9"),
        ({"max_length": 9, "too_long": "error"}, "abcdefgh", DataError, "max_length 9"),
        ({"max_length": 4, "too_long": "shorten"}, "a", DataError, "leave no room for a prompt"),
        ({"max_length": 9, "too_long": "shorten"}, "", Unusable, "empty prompt"),
        # One system message of one token cannot be shortened.
        ({"max_length": 9, "too_long": "shorten"}, (Message("system", "s"),), Unusable, "longer than max_length 9"),
    ],
)
def test_prompts_that_cannot_be_used(options: dict[str, Any], prompt: Any, error: type[Exception], what: str) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    reader = codec(byte_level(merges=False, template=template), **options)
    with pytest.raises(error, match=what):
        reader.encode_prompt_row(Posed("here", prompt), 4)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_ends_with_a_token_or_else_with_a_text(name: str) -> None:
    tokenizer, end = tokenizer_of(name), STYLES[name].end.strip()
    reader = codec(tokenizer)
    assert tokenizer.convert_tokens_to_ids(end) in reader.end_tokens
    assert tokenizer.eos_token_id in reader.end_tokens
    assert reader.stop_strings == ()


def test_an_end_of_turn_that_is_not_a_token_is_a_stop_string() -> None:
    reader = codec(byte_level(eos="</s>", template=STYLES["chatml"].template.replace("⟦", "").replace("⟧", "")))
    assert reader.stop_strings == ("<|im_end|>",)
    assert reader.stop_strings_in_use == (), "no conversation was encoded"
    reader.encode_answers(Chat("here", PROMPT))
    assert reader.stop_strings_in_use == ("<|im_end|>",)
