"""A shape filled in is the conversation rendered, with the same answers, whatever its contents are."""

from __future__ import annotations

import random
from itertools import product

import pytest
from chat_families import DAY, FAMILIES, family_codec
from chat_styles import byte_level, user

from bottega.records import Chat, Message
from bottega.tokenization.chat_spans import AnswerFinder
from bottega.tokenization.chat_template import ChatTemplateError
from bottega.tokenization.codec import Codec
from bottega.tokenization.conversation_shape import MAX_SHAPES, Shape, Shapes

ROLES = [
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("system", "user", "assistant", "user", "assistant", "user", "assistant"),
    ("user", "assistant", "user"),
    ("user", "user", "assistant"),
    ("assistant", "user", "assistant"),
]
# Texts that templates write themselves, and edges that they strip or keep.
WORDS = [
    "a",
    "<think>\nb\n</think>",
    "<|im_end|>\n",
    "</s>",
    "[/INST]",
    "assistant\n",
    "一二三",
    "\U00020000",
    "x" * 300,
]
EDGES = ["", " ", "\n", "\n\n\u2003", "\t"]


def shape_of(finder: AnswerFinder, chat: Chat) -> Shape | None:
    return Shapes(finder.template, finder.find_by_markers, finder.render_prompt).of(chat)


@pytest.mark.parametrize("family", FAMILIES)
def test_filled_in_or_found_in_the_conversation_is_the_same(family: str) -> None:
    finder, rng, shapes = family_codec(family).answer_finder, random.Random(family), 0
    for roles in ROLES:
        for _ in range(12):
            contents = [rng.choice(EDGES) + " ".join(rng.choices(WORDS, k=2)) + rng.choice(EDGES) for _ in roles]
            weights = [rng.choice([0.0, 0.5, 1.0]) for _ in roles]
            chat = Chat("here", tuple(map(Message, roles, contents, weights)))
            try:
                expected = finder.find_by_markers(chat)
            except ChatTemplateError:
                assert shape_of(finder, chat) is None
                continue
            if (shape := shape_of(finder, chat)) is not None:
                shapes += 1
                assert shape.fill(chat) == expected
    assert shapes > 10 or family in ("deepseek_r1", "qwen3", "zephyr")


def codec_of(template: str) -> Codec:
    return Codec(byte_level(eos="</s>", merges=False, template=template), max_length=1000, too_long="error", day=DAY)


TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<assistant>{% endif %}"


def test_what_has_no_shape() -> None:
    finder = codec_of(TURNS + PROMPT).answer_finder
    plain = Chat("1", (user("a"), Message("assistant", "b")))
    assert shape_of(finder, plain) is not None
    for other in (
        Chat("2", (user(" "), Message("assistant", "b"))),
        Chat("3", (user("a"), Message("assistant", ""))),
        Chat("4", (user("a"), Message("assistant", "b", more={"name": "c"}))),
        Chat("5", (user("a"), Message("tool", "b"), Message("assistant", "b"))),
        Chat("6", plain.messages, ({"type": "function", "function": {"name": "f"}},)),
        Chat("7", plain.messages, variables={"x": 1}),
    ):
        assert shape_of(finder, other) is None, other.where


def test_an_end_of_turn_that_the_next_content_may_continue() -> None:
    """Nothing stands between an answer and the next content, which may begin like the end of a conversation."""
    ending = "{% for m in messages %}{{ m.content }}|{% endfor %}{% if not add_generation_prompt %}stop{% endif %}"
    finder = codec_of(ending).answer_finder
    for first, last in product(["stop", "so", "other"], ["a", "stop"]):
        chat = Chat("1", (user("q"), Message("assistant", last), user(first), Message("assistant", last)))
        shape = shape_of(finder, chat)
        assert shape is None or shape.fill(chat) == finder.find_by_markers(chat)


def test_openings_that_the_rows_lack_are_counted_for_every_conversation() -> None:
    turns = "{% for m in messages %}{{ '<' ~ m.role ~ '>\\n' ~ m.content ~ '</s>' }}{% endfor %}"
    thinking = codec_of(turns + "{% if add_generation_prompt %}{{ '<assistant>\\n<think>\\n' }}{% endif %}")
    chat = Chat("1", (user("a"), Message("assistant", "b")))
    for _ in range(3):
        thinking.answer_finder.find(chat)
    assert dict(thinking.tally.missing_openings) == {"<think>": 3}


def test_shapes_are_limited() -> None:
    finder = codec_of(TURNS + PROMPT).answer_finder
    shapes = Shapes(finder.template, finder.find_by_markers, finder.render_prompt)
    shapes._shapes = {((str(number), True),): None for number in range(MAX_SHAPES)}
    assert shapes.of(Chat("1", (user("a"), Message("assistant", "b")))) is None
    assert len(shapes._shapes) == MAX_SHAPES
