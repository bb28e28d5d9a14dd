"""What carries loss in a conversation is what the model would have to write, to the token, for any template."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_families import (
    CALLS,
    DAY,
    FAMILIES,
    FOLDER,
    KNOW_TOOLS,
    ONE_CALL,
    SEVERAL,
    SYSTEM,
    TALKS,
    TOOLS,
    call,
    calling,
    family_codec,
    said,
    told,
    weighed,
)
from chat_styles import byte_level, user

from bottega.objectives.kto import Kto
from bottega.objectives.sft import Sft
from bottega.records import Chat, Message, Unpaired
from bottega.tokenization.chat_template import ChatTemplate, ChatTemplateError, message_dicts
from bottega.tokenization.codec import Codec

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "days": 2}}}
OTHER = {"type": "function", "function": {"name": "time", "arguments": {}}}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "c"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "the weather", "parameters": PARAMETERS}}


def calls(*called: dict[str, Any]) -> Message:
    return Message("assistant", "", more={"tool_calls": list(called)})


def result(text: str) -> Message:
    return Message("tool", text, more={"name": "weather", "tool_call_id": "abcdef123"})


TOOL_TALKS = {
    "a call": Chat("c", (user("weather?"), calls(CALL)), (TOOL,)),
    "a call and its answer": Chat("c", (user("weather?"), calls(CALL), result("sun"), said("Sunny.")), (TOOL,)),
    "more after it": Chat(
        "c", (user("weather?"), calls(CALL), result("sun"), said("Sunny."), user("thanks"), said("weather")), (TOOL,)
    ),
    "two calls": Chat("c", (user("weather?"), calls(OTHER, CALL), result("sun"), said("Sunny.")), (TOOL,)),
    "two rounds": Chat(
        "c",
        (user("weather?"), calls(CALL), result("a"), said("A."), user("again"), calls(CALL), result("b"), said("B.")),
        (TOOL,),
    ),
    "words alone": Chat("c", (user("hello"), said("one\nanswer"), user("and?"), said("another")), ()),
}

HERMES = """\
{%- if tools %}{{- '<|im_start|>system\\n' + tools | tojson + '<|im_end|>\\n' }}{%- endif %}
{%- set ns = namespace(asked=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.asked = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and loop.index0 > ns.asked %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{{- m.content }}
{%- for call in m.tool_calls or [] %}{{- '<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' }}{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

# Its prompt opens a thought that the template drops from earlier turns.
HERMES_OPEN = HERMES.replace(
    "'<|im_start|>assistant\\n' }}{%- endif %}", "'<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)

BRACKETS = """\
{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if loop.last and tools %}{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{{- '[INST]' + m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}
{%- elif m.tool_calls %}
{%- if m.content %}{{- raise_exception('words or calls, not both') }}{%- endif %}
{{- '[TOOL_CALLS][' }}
{%- for call in m.tool_calls %}{{- call.function | tojson }}{%- if not loop.last %}, {% endif %}{%- endfor %}
{{- ']' + eos_token }}
{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}
{%- endfor %}"""

# The name of a function stands twice, and its arguments are text.
TWICE = """\
{%- for m in messages %}
{{- '<|start|>' + m.role }}
{%- if m.tool_calls %}
{%- for call in m.tool_calls %}
{{- ' to=' + call.function.name + '<|message|>' + call.function.name + '(' + call.function.arguments + ')' }}
{%- endfor %}
{{- '<|call|>' }}
{%- else %}{{- '<|message|>' + m.content + '<|end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""

DEAF = """\
{%- for m in messages %}{{- '<|' + m.role + '|>' + m.content + '<|end|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""

# Two tokens end a turn, and generation stops at the second.
SHUT_TWICE = HERMES.replace("{{- '<|im_end|>\\n' }}\n{%- endfor", "{{- '<|im_end|><|turn_end|>\\n' }}\n{%- endfor")

OWN = {"hermes": HERMES, "hermes, open": HERMES_OPEN, "brackets": BRACKETS, "twice": TWICE, "shut twice": SHUT_TWICE}


def codec_of(template: str) -> Codec:
    marks = r"<\|?[A-Za-z_]+\|?>|\[/?[A-Z_]+\]|<｜[^｜]+｜>"
    special = sorted(set(re.findall(marks, template)) - {"<think>", "</think>", "<s>", "</s>"})
    tokenizer = byte_level(special=special, bos="<s>", eos="</s>", template=template)
    return Codec(tokenizer, max_length=100_000, too_long="error")


def learned(codec: Codec, chat: Chat) -> list[str]:
    """The stretches of text that carry loss."""
    row = codec.encode_answers(chat)
    carrying = np.zeros(len(row.tokens), bool)
    carrying[row.at + 1] = True
    edges = np.flatnonzero(np.diff(carrying, prepend=False, append=False)).reshape(-1, 2)
    return [codec.tokenizer.decode(row.tokens[start:end]) for start, end in edges]


def holds(codec: Codec, chat: Chat) -> None:
    """The last answer is what follows the generation prompt, up to white space or an end of text.

    Asked of every beginning of the conversation that ends in an answer, so that each answer is the last once.
    """
    whole = learned(codec, chat)
    answers = [index for index, message in enumerate(chat.messages) if message.role == "assistant"]
    assert len(whole) == len(answers)
    for stretch, index in zip(whole, answers, strict=True):
        until = replace(chat, messages=chat.messages[: index + 1])
        text = codec.template.render(until)
        last = learned(codec, until)[-1]
        last = last if last in text else last.removesuffix("</s>")  # added where the template ends a turn by nothing
        place = text.rindex(last)
        assert not re.sub(r"</s>|<\|endoftext\|>", "", text[place + len(last) :]).strip()
        before = chat.messages[:index]
        prompt = codec.answer_finder.adds_prompt and codec.template.render_messages(
            message_dicts(before), chat, generation=True
        )
        if prompt and text.startswith(prompt):
            assert place == len(prompt)
        message = chat.messages[index]
        wanted = [call["function"]["name"] for call in message.more.get("tool_calls", [])] or [message.content.strip()]
        assert all(word in stretch and word in last for word in wanted)


@pytest.mark.parametrize("talk", TOOL_TALKS)
@pytest.mark.parametrize("name", OWN)
def test_calls_are_learned_from_the_prompt_to_the_end_of_the_turn(name: str, talk: str) -> None:
    holds(codec_of(OWN[name]), TOOL_TALKS[talk])


def test_calls_in_full() -> None:
    talk = TOOL_TALKS["more after it"]
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call><|im_end|>'
    thought = "<think>\n\n</think>\n\n"
    expected = [call, "Sunny.<|im_end|>", thought + "weather<|im_end|>"]
    assert learned(codec_of(HERMES), talk) == expected
    assert learned(codec_of(HERMES_OPEN), talk) == [call, "Sunny.<|im_end|>", "\n</think>\n\nweather<|im_end|>"]
    bracketed = '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome", "days": 2}}]</s>'
    assert learned(codec_of(BRACKETS), talk)[0] == bracketed
    twice = ' to=weather<|message|>weather({"city": "Rome", "days": 2})<|call|>'
    assert learned(codec_of(TWICE), talk)[0] == twice


def test_every_token_that_ends_the_turn_is_learned() -> None:
    for talk in TOOL_TALKS.values():
        assert all(stretch.endswith("<|im_end|><|turn_end|>") for stretch in learned(codec_of(SHUT_TWICE), talk))


def test_calls_of_weight_0_are_only_read() -> None:
    first, call, *rest = TOOL_TALKS["more after it"].messages
    chat = replace(TOOL_TALKS["more after it"], messages=(first, replace(call, weight=0.0), *rest))
    assert learned(codec_of(HERMES), chat) == learned(codec_of(HERMES), TOOL_TALKS["more after it"])[1:]


def test_a_template_that_knows_no_tools_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="does not show the tool calls of message 1"):
        learned(codec_of(DEAF), TOOL_TALKS["a call and its answer"])


STOCK_FOLDER = Path(os.environ.get("BOTTEGA_TEMPLATES", "/nonexistent"))
STOCK = sorted(path.stem for path in STOCK_FOLDER.glob("*.jinja") if "_training" not in path.stem)


@pytest.mark.parametrize("name", STOCK or [pytest.param("none", marks=pytest.mark.skip("no BOTTEGA_TEMPLATES"))])
@pytest.mark.parametrize("talk", TOOL_TALKS)
def test_stock_templates(name: str, talk: str) -> None:
    """Point BOTTEGA_TEMPLATES at a folder of models' own `*.jinja` to hold them to the same rule."""
    codec = codec_of((STOCK_FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))
    try:
        learned(codec, TOOL_TALKS[talk])
    except ChatTemplateError as refused:
        pytest.skip(refused.what)
    holds(codec, TOOL_TALKS[talk])


def test_tools_stand_before_an_answer_that_is_judged() -> None:
    codec = codec_of(HERMES)
    ((row,),) = Kto().rows(Unpaired("u", (user("weather?"),), "Sunny.", True, (TOOL,)), codec)
    assert '"name": "weather"' in codec.tokenizer.decode(row.tokens)
    ((row,),) = Sft().rows(Unpaired("u", (user("weather?"),), "Sunny.", True, (TOOL,)), codec)
    assert '"name": "weather"' in codec.tokenizer.decode(row.tokens)


def written(name: str, chat: Chat) -> tuple[str, list[str]]:
    """The text, and what of it the model writes, by the template's own word."""
    marked = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = byte_level(bos=family_codec(name).tokenizer.bos_token, eos=family_codec(name).tokenizer.eos_token)
    tokenizer.chat_template = marked
    text = ChatTemplate(tokenizer, DAY).render(chat)
    return re.sub("[⟦⟧]", "", text), re.findall("⟦(.*?)⟧", text, re.DOTALL)


def agrees(name: str, messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...] = ()) -> None:
    chat = Chat("here", messages, tools)
    text, wanted = written(name, chat)
    weights = [message.weight for message in messages if message.role == "assistant"]
    shown, found = weighed(family_codec(name), chat)
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
        family_codec(name).encode_answers(Chat("here", messages, TOOLS))


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


def test_weight_0_is_only_read() -> None:
    silent = [replace(message, weight=0.0) for message in CALLS["a call"][:-1]]
    chat = Chat("here", (*silent, said("Ten.")), TOOLS)
    assert weighed(family_codec("hermes"), chat)[1] == [("Ten.<|im_end|>", 1.0)]
