"""Conversations and the chat templates of thirteen well-known families, in our own words.

⟦ and ⟧ in a template stand around what the model writes; rendered with them it says what is right, rendered without
them it is what the codec is given.
"""

from __future__ import annotations

import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from chat_styles import byte_level, user

from bottega.records import Chat, Message
from bottega.tokenization.codec import Codec
from bottega.training.preview import token_pieces

FOLDER = Path(__file__).parent / "templates"
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
DAY = date(2026, 11, 28)
SPECIAL = re.compile(
    r"<\|[A-Za-z_]+\|>|<｜[^｜]+｜>|\[/?[A-Z_]+\]|</?tool_call>|<\|/[a-z_]+\|>|<(?:start|end)_of_turn>"
)

# Marks of the oldest family, which are no tokens there.
PLAIN = {"[INST]", "[/INST]"}


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
def family_codec(name: str) -> Codec:
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


def weighed(codec: Codec, chat: Chat) -> tuple[str, list[tuple[str, float]]]:
    """The text as `preview` shows it, and each stretch of it that carries loss."""
    shown = token_pieces(codec.encode_answers(chat), codec.tokenizer)
    weight = np.array([piece.weight for piece in shown])
    edges = np.flatnonzero(np.diff(weight > 0, prepend=False, append=False)).reshape(-1, 2)
    stretches = [("".join(piece.text for piece in shown[start:end]), float(weight[start])) for start, end in edges]
    return "".join(piece.text for piece in shown), stretches
