"""Calls of tools: the notation of a template is learnt, and calls are told from text."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from bottega.errors import DataError
from bottega.tokenization.chat_template import ChatTemplate
from bottega.tokenization.tool_calls import ToolCall, ToolCallReader, call_marker

USER = "{% for m in messages if m.role == 'user' %}[u]{{ m.content }}[/u]{% endfor %}"
TOOLS = "{% if tools %}tools: {{ tools | tojson }}{% endif %}"
CALLS = "{% for m in messages if m.tool_calls %}{% for c in m.tool_calls %}"
END = "{% endfor %}{% endfor %}"
# Notations of templates that are in use.
TAGGED = TOOLS + USER + CALLS + "<tool_call>\n{{ c.function | tojson }}\n</tool_call>" + END
BARE = (
    TOOLS + USER + CALLS + '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}' + END
)
LISTED = TOOLS + USER + CALLS + "[TOOL_CALLS] [{{ c.function | tojson }}]" + END
XML = TOOLS + USER + CALLS + "<f={{ c.function.name }}>{{ c.function.arguments.known_argument }}</f>" + END
WITHOUT = USER


def template_of(text: str) -> ChatTemplate:
    tokenizer: Any = SimpleNamespace(chat_template=text, special_tokens_map={}, bos_token=None, eos_token="</s>")
    tokenizer.get_chat_template = lambda *_, **__: text
    return ChatTemplate(tokenizer)


@pytest.mark.parametrize(
    ("text", "marker"),
    [(TAGGED, "<tool_call>"), (BARE, ""), (LISTED, "[TOOL_CALLS]")],
    ids=["tagged", "bare", "listed"],
)
def test_the_marker_of_calls_is_learnt_from_the_template(text: str, marker: str) -> None:
    assert call_marker(template_of(text)) == marker


@pytest.mark.parametrize(("text", "words"), [(XML, "not JSON"), (WITHOUT, "no place for tools")])
def test_templates_without_such_calls_are_refused(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        call_marker(template_of(text))


def read(text: str, marker: str, size: int) -> tuple[str, list[ToolCall]]:
    reader = ToolCallReader(marker, frozenset({"weather", "time"}))
    said = "".join(reader.push(text[start : start + size]) for start in range(0, len(text), size))
    more, calls = reader.end()
    return said + more, calls


WEATHER = '{"name": "weather", "arguments": {"city": "Siena", "days": [1, 2]}}'
ARGUMENTS = {"city": "Siena", "days": [1, 2]}


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "marker", "said", "names"),
    [
        ("I look.<tool_call>\n" + WEATHER + "\n</tool_call>", "<tool_call>", "I look.", ["weather"]),
        (WEATHER, "<tool_call>", "", ["weather"]),
        (f"<tool_call>{WEATHER}</tool_call> <tool_call>{WEATHER}</tool_call>", "<tool_call>", "", ["weather"] * 2),
        (f"[TOOL_CALLS] [{WEATHER}, {WEATHER}]", "[TOOL_CALLS]", "", ["weather"] * 2),
        (' {"name": "time", "parameters": {}}', "", "", ["time"]),
        ("The sum is {1, 2}.", "<tool_call>", "The sum is {1, 2}.", []),
        ('{"name": "unknown", "arguments": {}}', "", '{"name": "unknown", "arguments": {}}', []),
        ("I <tool_call> nothing", "<tool_call>", "I <tool_call> nothing", []),
        ("[1] says so", "", "[1] says so", []),
        ("", "<tool_call>", "", []),
    ],
)
def test_calls_are_told_from_text(text: str, marker: str, said: str, names: list[str], size: int) -> None:
    found, calls = read(text, marker, size)
    assert (found, [call.name for call in calls]) == (said, names)
    assert all(json.loads(call.arguments) == ARGUMENTS for call in calls if call.name == "weather")
