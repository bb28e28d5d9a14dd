"""A template is said to only print contents where it does, and never where a content decides what it writes."""

from __future__ import annotations

import pytest
from chat_families import FAMILIES, FOLDER

from bottega.tokenization.template_analysis import only_prints_contents

LOOP = "{% for m in messages %}{{ m.role }}: BODY{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"


def inside(body: str) -> bool:
    return only_prints_contents(LOOP.replace("BODY", body))


@pytest.mark.parametrize(
    "body",
    [
        "{{ m.content }}",
        "{{ m['content'] | trim }}",
        "{{ '<' + m.content.strip() + '>' }}",
        "{{ '<' ~ m.get('content') ~ '>' }}",
        "{{ m.content if m.role == 'user' else '' }}",
        "{{ m.content | default('') }}",
        "{% if m.content %}{{ m.content }}{% endif %}",
        "{% if m.content is string and m['content'] != '' %}{{ m.content }}{% endif %}",
        "{% if 'tool_calls' in m %}?{% endif %}{{ m.content }}",
        "{% set text = m.content %}{{ text ~ eos_token }}",
        "{% if loop.first and not messages[0].role == 'system' %}S{% endif %}{{ m.content }}",
        "{% if messages | length > 3 %}long{% endif %}{{ m.content }}",
        "{% for call in m.tool_calls %}{{ call | tojson }}{% endfor %}{{ m.content }}",
        "{% if m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}",
        "{% if tools %}{{ m | tojson }}{% endif %}{{ m.content }}",
        "{% set ns = namespace(last='') %}{% set ns.last = m.content %}{{ ns.last }}",
        "{% generation %}{{ m.content }}{% endgeneration %}",
        "{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}",
    ],
)
def test_printing(body: str) -> None:
    assert inside(body)


@pytest.mark.parametrize(
    "body",
    [
        "{{ m.content | upper }}",
        "{{ m.content | tojson }}",
        "{{ m }}",
        "{{ m | tojson }}",
        "{{ m.content[:10] }}",
        "{{ m.content.split('</think>')[-1] }}",
        "{{ m.content | length }}",
        "{{ m.content * 2 }}",
        "{% if 'x' in m.content %}X{% endif %}",
        "{% if m.content == 'x' %}X{% endif %}",
        "{% if m.content == messages[0].content %}X{% endif %}",
        "{% if m.content.startswith('x') %}X{% endif %}",
        "{% if m.content is eq('x') %}X{% endif %}",
        "{% set text = '<' ~ m.content %}{% if 'x' in text %}X{% endif %}",
        "{% set text %}{{ m.content }}{% endset %}{% if 'x' in text %}X{% endif %}",
        "{% macro f(text) %}{{ 'X' if 'x' in text }}{% endmacro %}{{ f(m.content) }}",
        "{% set ns = namespace(a=m.content) %}{% if ns.a == 'x' %}X{% endif %}",
        "{% set ns = namespace() %}{% set ns.a = m.content %}{% set other = ns %}{{ other.a | upper }}",
        "{% set ns = namespace() %}{% set ns.a = m.content %}{{ ns | string | upper }}",
        "{% for key, value in m.items() %}{{ value | upper }}{% endfor %}",
        "{% for letter in m.content %}{{ letter }}.{% endfor %}",
        "{% filter upper %}{{ m.content }}{% endfilter %}",
        "{{ m[('con', 'tent') | join] | upper }}",
        "{{ [m.content] | join | upper }}",
        "{{ {'a': m.content}.a | upper }}",
        "{{ (m.content, 1)[0] | upper }}",
        "{{ dict(a=m.content).a | upper }}",
        "{{ loop.previtem.content | upper if not loop.first }}",
        "{{ loop.changed(m.content) }}",
        "{{ messages | selectattr('content', 'eq', 'x') | list | length }}",
        "{{ messages | map(attribute='content') | join | upper }}",
        "{{ (messages[0] or m).content | upper }}",
        "{% with text = m.content %}{{ text | upper }}{% endwith %}",
        "{{ m.content.format(1) }}",
        "{{ '%s' % m.content | upper }}",
        "{{ raise_exception(m.content) }}",
        # A name that is a message in one place and anything else in another.
        "{% set m = {'role': 'user', 'tool_calls': 1} %}{% if m.tool_calls %}{{ m | tojson }}{% endif %}",
        "{% set tools = messages %}{% if tools %}{{ tools | tojson }}{% endif %}",
        "{% set m.content = 'x' %}",
    ],
)
def test_doing_more(body: str) -> None:
    assert not inside(body)


def test_a_name_assigned_further_down() -> None:
    """The loop's second turn sees what its first assigned."""
    assert not inside("{% if 'x' in before | default('') %}X{% endif %}{{ m.content }}{% set before = m.content %}")


def test_a_variable_that_is_called_as_the_loop() -> None:
    template = "{% set loop = messages[0] %}{% if loop.content == 'x' %}X{% endif %}{{ messages[0].content }}"
    assert not only_prints_contents(template)
    assert only_prints_contents(template.replace("loop.content == 'x'", "loop.role == 'user'").replace("loop", "first"))


def test_families() -> None:
    """Those that look for the end of a thought, or compare contents, are the ones that may decide by them."""
    opaque = {name for name in FAMILIES if not only_prints_contents((FOLDER / f"{name}.jinja").read_text("utf-8"))}
    assert opaque == {"deepseek_r1", "qwen3"}
