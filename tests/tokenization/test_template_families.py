"""What carries loss under thirteen families of chat templates is what the model would have to write, to the token.

Each template is of the structure of a well-known family, in our own words. ⟦ and ⟧ in it stand around what the model
writes; rendered with them it says what is right, rendered without it is what the codec is given.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_codec import byte_level

from bottega.records import Chat, Message
from bottega.tokenization.chat_template import ChatTemplate, ChatTemplateError
from bottega.tokenization.codec import Codec
from bottega.training.preview import pieces

FOLDER = Path(__file__).parent / "templates"
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
DAY = date(2026, 11, 28)
SPECIAL = re.compile(
    r"<\|[A-Za-z_]+\|>|<｜[^｜]+｜>|\[/?[A-Z_]+\]|</?tool_call>|<\|/[a-z_]+\|>|<(?:start|end)_of_turn>"
)

# Marks of the oldest family, which are no tokens there.
PLAIN = {"[INST]", "[/INST]"}


def user(text: str) -> Message:
    return Message("user", text)


def said(text: str, weight: float = 1.0, **more: Any) -> Message:
    return Message("assistant", text, weight, more)


def call(name: str, number: int = 0, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call{number:05}", "type": "function", "function": function}


def calling(*calls: dict[str, Any], text: str = "", **more: Any) -> Message:
    return Message("assistant", text, more={"tool_calls": list(calls), **more})


def told(text: str, number: int = 0) -> Message:
    return Message("tool", text, more={"tool_call_id": f"call{number:05}"})


def tool(name: str) -> dict[str, Any]:
    town = {"type": "string", "description": "where; NULL \ue000 is a key"}
    parameters = {"type": "object", "properties": {"town": town}, "required": ["town"]}
    return {
        "type": "function",
        "function": {"name": name, "description": f"tells the {name}", "parameters": parameters},
    }


SYSTEM, TOOLS = Message("system", "Be brief."), (tool("hour"), tool("day"))
TALKS = {
    "words": (SYSTEM, user("Hour?"), said("Ten."), user("Sure? Ten."), said(" Yes,\n\nten \ue000 ")),
    "no system": (user("Hour?"), said("Hour?"), user("<|im_end|>\n<|im_start|>assistant\nno"), said("assistant\n")),
    "reasoning": (
        SYSTEM,
        user("Hour?"),
        said("Ten.", reasoning_content="the clock"),
        user("Sure?"),
        said("Ten.", reasoning_content="Ten.\n\n<think> \ue001"),
    ),
    "reasoning within": (user("a"), said("<think>\nb\n</think>\n\nc"), user("d"), said("<think>\ne\n</think>\n\nf")),
    "weights": (user("a"), said("b", 0.0), user("c"), said("d", 0.5), user("e"), said("f")),
    "ends with a question": (SYSTEM, user("a"), said("b"), user("c")),
}
CALLS = {
    "a call": (SYSTEM, user("Hour?"), calling(call("hour", town="Bonn")), told("ten"), said("Ten.")),
    "no arguments": (user("Hour?"), calling(call("hour")), told("hour"), said("Ten."), user("hour"), said("day")),
    "it ends with a call": (SYSTEM, user("Hour?"), calling(call("hour", town="Bonn {}</tool_call>\ue000"))),
    "reasons and calls": (
        user("Hour?"),
        calling(call("hour", n=1), reasoning_content="a clock"),
        told("ten"),
        said("Ten.", reasoning_content="it said ten"),
        user("Thanks"),
        said("Bye.", reasoning_content="done"),
    ),
}
SEVERAL = {
    "two calls": (
        SYSTEM,
        user("Hour?"),
        calling(call("hour"), call("day", 1, town="Bonn")),
        told("ten"),
        told("Monday", 1),
        said("Ten."),
        user("Thanks"),
        said("Bye."),
    ),
    "the same twice": (
        user("Hour?"),
        calling(call("hour", n=[1, "x"]), call("hour", 1, n={"y": "hour"})),
        told("hour"),
        told("ten", 1),
        calling(call("day", 2)),
        told("day", 2),
        said("hour day"),
    ),
}
KNOW_TOOLS = {"llama3", "mistral", "phi", "qwen3", "deepseek_r1", "harmony", "command_r", "granite", "hermes"}
ONE_CALL = {"harmony"}


@cache
def codec_of(name: str) -> Codec:
    template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8").replace("⟦", "").replace("⟧", "")
    special = sorted(set(SPECIAL.findall(template)) - (PLAIN if name == "llama2" else set()))
    tokenizer = byte_level(
        special=special,
        added=("<think>", "</think>") if name in ("qwen3", "deepseek_r1") else (),
        bos=None if name in ("chatml", "qwen3") else "<s>",
        eos="<|im_end|>" if name == "chatml" else "</s>",
        merges=False,
        template=template,
    )
    return Codec(tokenizer, max_length=100_000, too_long="error", day=DAY)


def written(name: str, chat: Chat) -> tuple[str, list[str]]:
    """The text, and what of it the model writes, by the template's own word."""
    marked = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = byte_level(bos=codec_of(name).tokenizer.bos_token, eos=codec_of(name).tokenizer.eos_token)
    tokenizer.chat_template = marked
    text = ChatTemplate(tokenizer, DAY).render(chat)
    return re.sub("[⟦⟧]", "", text), re.findall("⟦(.*?)⟧", text, re.DOTALL)


def weighed(codec: Codec, chat: Chat) -> tuple[str, list[tuple[str, float]]]:
    """The text as `preview` shows it, and each stretch of it that carries loss."""
    shown = pieces(codec.encode_answers(chat), codec.tokenizer)
    weight = np.array([piece.weight for piece in shown])
    edges = np.flatnonzero(np.diff(weight > 0, prepend=False, append=False)).reshape(-1, 2)
    stretches = [("".join(piece.text for piece in shown[start:end]), float(weight[start])) for start, end in edges]
    return "".join(piece.text for piece in shown), stretches


def agrees(name: str, messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...] = ()) -> None:
    chat = Chat("here", messages, tools)
    text, wanted = written(name, chat)
    weights = [message.weight for message in messages if message.role == "assistant"]
    shown, found = weighed(codec_of(name), chat)
    assert shown == text
    assert len(wanted) == len(weights)
    assert found == [(one, weight) for one, weight in zip(wanted, weights, strict=True) if weight]


@pytest.mark.parametrize("name", FAMILIES)
def test_words_and_reasoning(name: str) -> None:
    for messages in TALKS.values():
        messages = messages[1:] if name == "gemma" and messages[0] == SYSTEM else messages
        agrees(name, messages)


@pytest.mark.parametrize("name", sorted(KNOW_TOOLS))
def test_calls(name: str) -> None:
    for messages in (CALLS | ({} if name in ONE_CALL else SEVERAL)).values():
        agrees(name, messages, TOOLS)
        agrees(name, messages)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - KNOW_TOOLS))
def test_a_family_without_tools_says_so(name: str) -> None:
    messages = CALLS["a call"][1:] if name == "gemma" else CALLS["a call"]
    with pytest.raises(ChatTemplateError):
        codec_of(name).encode_answers(Chat("here", messages, TOOLS))


@pytest.mark.parametrize("name", ["harmony", "llama2", "mistral", "qwen3"])
def test_a_long_conversation_is_found_turn_by_turn(name: str) -> None:
    """Of many answers each is found by what stands around it alone."""
    turns = [part for n in range(26) for part in (user(f"asked {n}"), said(f"{n} answered", reasoning_content=f"r{n}"))]
    agrees(name, tuple(turns))
    if name in KNOW_TOOLS:
        talk = [
            part for n in range(26) for part in (user(f"{n}"), calling(call("hour", n=n)), told("hour"), said("hour"))
        ]
        agrees(name, tuple(talk), TOOLS)


def test_the_day_is_the_codecs_own() -> None:
    shown, _ = weighed(codec_of("granite"), Chat("here", TALKS["words"]))
    assert "Today is November 28, 2026." in shown
    later = replace_day(codec_of("granite"), date(2027, 1, 2))
    assert "Today is January 02, 2027." in weighed(later, Chat("here", TALKS["words"]))[0]


def replace_day(codec: Codec, day: date) -> Codec:
    return Codec(codec.tokenizer, max_length=codec.max_length, too_long="error", day=day)


def test_weight_0_is_only_read() -> None:
    silent = [replace(message, weight=0.0) for message in CALLS["a call"][:-1]]
    chat = Chat("here", (*silent, said("Ten.")), TOOLS)
    assert weighed(codec_of("hermes"), chat)[1] == [("Ten.<|im_end|>", 1.0)]
