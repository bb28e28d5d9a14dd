# ruff: noqa: E501, templates read best in whole lines
"""A chat template is rendered as transformers renders it, and no template runs without end."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from bottega.records import Chat, Message
from bottega.tokenization.chat_template import ChatTemplateError
from bottega.tokenization.codec import Codec
from bottega.tokenization.template_sandbox import MAX_STEPS, TemplateLimitError, render
from making import make_tokenizer

CALL = {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "You help."},
    {"role": "user", "content": " Will it rain? <b>\n"},
    {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning": "I must look."},
    {"role": "tool", "content": '{"rain": true}', "name": "weather", "tool_call_id": "a1"},
    {"role": "assistant", "content": "<think>\nwet\n</think>\n\nYes.", "refusal": None},
]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
FAMILIES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "generation": "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'assistant' %}\n"
    "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
    "tools": "{%- if tools is not none %}{{ tools | tojson(indent=2) }}{% endif -%}{%- for m in messages -%}"
    "{%- for c in m.tool_calls or [] -%}{{ c.function | tojson }}{{ c.function.arguments.items() | list }}{%- endfor -%}"
    "{{ m.content | upper }}{%- if loop.last %}.{% elif loop.first %}!{% endif -%}{%- endfor -%}",
    "search": "{%- set ns = namespace(last=-1, first=true) -%}{%- for m in messages[::-1] -%}"
    "{%- set index = (messages | length - 1) - loop.index0 -%}"
    "{%- if ns.first and m.role == 'user' and not (m.content.startswith('<tool') and m.content.endswith('>')) -%}"
    "{%- set ns.last = index -%}{%- set ns.first = false -%}{%- endif -%}{%- endfor -%}{{ ns.last }}"
    "{%- for m in messages -%}{%- if m.content is string and '</think>' in m.content -%}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}|{{ m.content.split('</think>')[0].rstrip().split('<think>')[-1] }}"
    "{%- elif m.reasoning_content is defined -%}{{ m.reasoning_content }}{{ m.thinking }}{%- endif -%}{%- endfor -%}",
    "macros": "{%- macro shown(m, upper=false) -%}{{ (m.content | upper) if upper else m.content }}{%- endmacro -%}"
    "{%- for m in messages if m.role != 'system' -%}{%- if loop.index > 3 -%}{%- break -%}{%- endif -%}"
    "{%- if m.role == 'tool' -%}{%- continue -%}{%- endif -%}{{ shown(m, upper=true) ~ loop.length }}{%- endfor -%}",
    "filters": "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('; ') }}"
    "{{ messages | rejectattr('role', 'in', ['user', 'tool']) | list | length }}"
    "{{ (messages | map(attribute='role') | unique | list) | tojson }}{{ messages | first | attr('role') }}"
    "{{ dict(a=1, **{'b': 2}) | dictsort }}{{ '%s and %02d' | format('x', 7) }}{{ '{:>4}'.format(3) }}"
    "{{ (messages | groupby('role'))[0].grouper }}{{ [1, 2] + [3] }}{{ 'ab' * 3 }}{{ 7 % 4 }}{{ 2 ** 8 }}"
    "{{ messages[1].content | replace('rain', 'snow') | indent(2) }}{{ missing | default('none') }}{{ [3, 1] | sort }}",
    "recursive": "{% for c in messages[2].tool_calls recursive %}{{ c if c is string else '' }}"
    "{% if c is mapping %}{{ loop(c.values()) }}{% endif %}{% endfor %}"
    "{% set text %}{{ messages[0].content }}{% endset %}{{ text | length }}{% for x in [] %}a{% else %}b{% endfor %}",
}  # fmt: skip

RANGE = "range(100000)"
ENDLESS = {
    "nested loops": "{% for a in R %}{% for b in R %}{% for c in R %}x{% endfor %}{% endfor %}{% endfor %}",
    "loops that pass over everything": "{% for a in R %}{% for b in R if b > a + 100000 %}x{% endfor %}{% endfor %}",
    "a recursive loop": "{% for i in [1] recursive %}{% if loop.depth < 5 %}{{ loop(R) }}{% endif %}{% endfor %}",
    "a macro": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a gigabyte": "{{ 'a' * 10**9 }}",
    "much text": "{% for i in R %}" + "x" * 20_000 + "{% endfor %}",
    "doubling": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "doubling by a block": "{% set n = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set t %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = t %}{% endfor %}{{ n.x }}",
    "a list within itself": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}",
    "a power": "{{ (10 ** 10 ** 10) ** 1000 }}",
    "a width": "{{ 'a'.ljust(10000000000) }}",
    "a width in a format": "{{ '%1000000000d' | format(1) }}",
    "a join": "{% set b = 'a' * 100000 %}{{ b.join(R | map('string')) }}",
    "a replacement": "{% set b = 'a' * 100000 %}{{ b | replace('a', b) }}",
    "filters over and over": "{% for i in R %}{{ R | sum }}{% endfor %}",
    "a search over and over": "{% set l = range(90000) | list %}{% for i in R %}{{ 'x' in l }}{% endfor %}",
    "slices over and over": "{% set b = 'a' * 10000000 %}{% for i in R %}{% set c = b[1:] %}{% endfor %}",
    "a long source": "x" * 300_000,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("generation", [False, True])
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_it_is_what_transformers_renders(tokenizer: Any, name: str, generation: bool, tools: Any) -> None:
    tokenizer.chat_template = FAMILIES[name]
    theirs = tokenizer.apply_chat_template(CONVERSATION, tools=tools, tokenize=False, add_generation_prompt=generation)
    assert render(tokenizer, CONVERSATION, tools=tools, generation=generation) == theirs
    assert theirs


def test_of_several_templates_the_one_for_tools_is_taken(tokenizer: Any) -> None:
    tokenizer.chat_template = {"default": "plain", "tool_use": "with tools"}
    assert (render(tokenizer, CONVERSATION), render(tokenizer, CONVERSATION, tools=[TOOL])) == ("plain", "with tools")


def test_the_date_is_the_one_given(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ strftime_now('%d %B %Y') }}"
    assert render(tokenizer, CONVERSATION, now=datetime(2024, 2, 29)) == "29 February 2024"
    assert render(tokenizer, CONVERSATION) == datetime.now().strftime("%d %B %Y")


def test_variables_reach_the_template(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ enable_thinking }}{{ bos_token }}"
    assert render(tokenizer, CONVERSATION, variables={"enable_thinking": False}) == "False<s>"


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_end_is_refused_soon(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = ENDLESS[name].replace("R", RANGE)
    start = time.thread_time()
    with pytest.raises(TemplateLimitError):
        render(tokenizer, CONVERSATION)
    assert time.thread_time() - start < 2


def test_it_is_refused_in_a_thread_too_and_the_next_is_rendered(tokenizer: Any, tmp_path: Path) -> None:
    other = AutoTokenizer.from_pretrained(make_tokenizer(tmp_path, template="{{ messages | length }}"))
    tokenizer.chat_template = ENDLESS["a macro"]
    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(TemplateLimitError):
            thread.submit(render, tokenizer, CONVERSATION).result()
        assert thread.submit(render, other, CONVERSATION).result() == "5"


def test_what_a_row_needs_is_far_from_the_limit(tokenizer: Any) -> None:
    """A conversation of 2,000 turns, with a template that looks through what came before."""
    tokenizer.chat_template = FAMILIES["search"]
    turns = [CONVERSATION[1], CONVERSATION[4]] * 1000
    assert render(tokenizer, turns).startswith("1998")
    assert MAX_STEPS >= 4_000_000


@pytest.mark.parametrize(
    ("template", "word"),
    [("{{ ''.__class__.mro() }}", "unsafe"), ("{{ messages.append(1) }}", "unsafe"), ("{{ raise_exception('no') }}", "no"),
     ("{{ namespace(__init__=1) }}", "underscore"), ("{% include 'x' %}", "loader"), ("{{ " + "(" * 3000, "recursion")],
)  # fmt: skip
def test_a_template_that_does_what_it_may_not(tokenizer: Any, template: str, word: str) -> None:
    tokenizer.chat_template = template
    codec = Codec(tokenizer, max_length=100, too_long="drop")
    chat = Chat("rows.jsonl line 3", (Message("user", "hi"), Message("assistant", "yes")))
    with pytest.raises(ChatTemplateError, match=word) as caught:
        codec.encode_answers(chat)
    assert caught.value.where == "rows.jsonl line 3"
