"""A prompt that is too long loses its oldest part, and no answer loses its question."""

from __future__ import annotations

from typing import Any

import pytest
from chat_styles import assistant, byte_level, codec, learned, templated_ids, tokenizer_of, user

from bottega.records import Chat, Message, Preference, Prompted, Text
from bottega.tokenization.shorten_prompt import shorten_prompt


def test_the_prompt_is_shortened_before_the_answer() -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, merges=False)
    for policy in ("shorten", "truncate"):
        short = codec(tokenizer, max_length=8, too_long=policy)
        row = short.encode_answers(Prompted("here", "abcdefgh", "the"))
        assert tokenizer.decode(row.tokens.tolist()) == "<s>fghthe</s>"
        assert learned(row, tokenizer) == [("the</s>", 1.0)]
        assert short.tally.truncated == 1
        row = short.encode_answers(Text("here", "abcdefghthe", answer=8))
        assert tokenizer.decode(row.tokens.tolist()) == "<s>fghthe</s>"


def test_the_oldest_turns_are_dropped_and_the_system_message_stays() -> None:
    tokenizer = tokenizer_of("zephyr", merges=False)
    messages = (Message("system", "s"), user("a" * 50), assistant("one"), user("b"), assistant("two"))
    whole = codec(tokenizer).encode_answers(Chat("here", messages))
    short = codec(tokenizer, max_length=len(whole.tokens) - 1, too_long="shorten")
    row = short.encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, (messages[0], *messages[3:]))
    assert learned(row, tokenizer) == [("two</s>", 1.0)]
    silent = (*messages[:2], assistant("one"), user("b"), assistant("two", 0.0), user("c"))
    assert learned(short.encode_answers(Chat("here", silent)), tokenizer) == [("one</s>", 1.0)]


@pytest.mark.parametrize("more", [{}, {"reasoning_content": "x" * 90}])
def test_no_more_turns_are_dropped_than_necessary(more: dict[str, Any]) -> None:
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ m.reasoning_content }}</s>{% endfor %}"
    tokenizer = byte_level(special=["<|user|>", "<|assistant|>"], eos="</s>", merges=False, template=template)
    messages = (
        user("a"),
        Message("assistant", "one", more=more),
        user("b"),
        assistant("two"),
        user("c"),
        assistant("3"),
    )
    kept = codec(tokenizer).encode_answers(Chat("here", messages[2:]))
    row = codec(tokenizer, max_length=len(kept.tokens), too_long="shorten").encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == kept.tokens.tolist()
    assert learned(row, tokenizer) == [("two</s>", 1.0), ("3</s>", 1.0)]


def test_the_last_question_is_shortened_in_its_middle() -> None:
    tokenizer = tokenizer_of("zephyr", merges=False)
    messages = (Message("system", "s"), user("Sum up: " + "x" * 60 + " in French"), assistant("non"))
    whole = codec(tokenizer).encode_answers(Chat("here", messages))
    row = codec(tokenizer, max_length=len(whole.tokens) - 50, too_long="shorten").encode_answers(Chat("here", messages))
    assert len(row.tokens) == len(whole.tokens) - 50
    text = tokenizer.decode(row.tokens.tolist())
    assert "Sum up: x" in text
    assert "x in French" in text
    assert text.startswith("<|system|>\ns</s>")
    assert learned(row, tokenizer) == [("non</s>", 1.0)]


def test_a_prompt_of_a_pair_is_never_taken_for_something_learned() -> None:
    tokenizer = tokenizer_of("zephyr", merges=False)
    prompt = (user("a" * 30), assistant("one"), user("What?"))
    short = codec(tokenizer, max_length=60, too_long="shorten")
    chosen, rejected = short.encode_pair(Preference("here", prompt, "yes", "no"))
    for row, answer in ((chosen, "yes"), (rejected, "no")):
        assert row.tokens.tolist() == templated_ids(tokenizer, (user("What?"), assistant(answer)))


def characters(text: str) -> list[tuple[int, int]]:
    """The offsets of a tokenizer whose tokens are characters."""
    return [(index, index + 1) for index in range(len(text))]


@pytest.mark.parametrize(
    ("excess", "least", "shorter"),
    [(1, 1, "bcdef"), (4, 1, "ef"), (5, 1, "f"), (6, 1, "f"), (60, 1, "f"), (4, 3, "def"), (2, 6, None), (2, 9, None)],
)
def test_a_text_loses_its_beginning_but_for_a_least_part(excess: int, least: int, shorter: str | None) -> None:
    assert shorten_prompt("abcdef", excess, least, characters) == shorter


def test_messages_after_the_last_answer_are_dropped_first() -> None:
    messages = (user("a" * 40), assistant("b"), user("c" * 40), assistant("d", 0.0))
    assert shorten_prompt(messages, 1, 1, characters) == messages[:2]


def test_whole_turns_are_left_out_until_enough_is_free() -> None:
    messages = (Message("developer", "s"), *(turn for text in "abcd" for turn in (user(text * 10), assistant("y"))))
    # A turn frees its 11 characters and what a template puts around its two messages.
    for excess, dropped in ((1, 1), (43, 1), (44, 2), (86, 2), (87, 3), (1000, 3)):
        assert shorten_prompt(messages, excess, 1, characters) == (messages[0], *messages[1 + 2 * dropped :])


def test_of_several_messages_the_longest_loses_its_middle() -> None:
    messages = (Message("system", "s" * 50), user("abcdefghij"), Message("tool", "0123456789xy"), assistant("z" * 99))
    shorter = shorten_prompt(messages, 4, 1, characters)
    assert [message.content for message in shorter] == ["s" * 50, "abcdefghij", "012389xy", "z" * 99]


def test_a_system_message_is_cut_only_where_nothing_else_is_left() -> None:
    messages = (Message("system", "abcdefghij"), user("a"))
    shorter = shorten_prompt(messages, 6, 1, characters)
    assert [message.content for message in shorter] == ["abij", "a"]
    assert shorten_prompt((Message("system", "a"), user("b")), 1, 1, characters) is None


def test_bytes_of_one_character_are_not_cut_apart() -> None:
    def four_bytes(text: str) -> list[tuple[int, int]]:
        return [place for place in characters(text) for _ in range(4)]

    assert shorten_prompt((user("🙂"),), 1, 1, four_bytes) is None
    assert shorten_prompt("🙂", 1, 1, four_bytes) is None


def test_user_messages_in_a_row_are_one_turn() -> None:
    messages = (user("a"), assistant("x"), user("b"), user("c"), assistant("y"), user("d"), assistant("z"))
    assert shorten_prompt(messages, 40, 1, characters) == messages[5:]
