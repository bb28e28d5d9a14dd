"""Chat templates rendered within limits: a template is a program that came with a checkpoint, and it may never end.

What is rendered is what transformers' `apply_chat_template` makes of it. Beyond that, everything a template does is
charged to a budget of steps: each turn of a loop and each call by the size of its body, each value by its size. The
count depends on the template and the conversation alone, so the same rows are refused on every machine.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from datetime import datetime
from functools import cache, wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_STEPS = 4_000_000
"""Steps of one rendering, about a second; a conversation of a hundred turns takes some ten thousand."""

ELEMENT_STEPS, FILTER_STEPS, CALL_STEPS = 5, 10, 50
"""Steps of looking at an element of a value, of a filter or a test, and of a call."""

CHARACTERS_PER_STEP = 32
"""Characters that are written, or looked through, in one step."""

MAX_BITS = 4096
"""Most bits of a whole number."""

MAX_GROWTH = 1 << 28
"""Most characters or elements that one operation may make of its operands, by a bound that is known before."""

MAX_SOURCE = 1 << 18
"""Most characters of a template."""

REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Names under which messages carry reasoning; transformers gives a template the first two of them."""


class TemplateLimitError(Exception):
    """A template that does more than any sound one."""


class _Budget(threading.local):
    """The steps that are left to the rendering of this thread."""

    left = MAX_STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise TemplateLimitError("it takes more steps than any template should: does it loop without end?")

    def weigh(self, value: Any) -> None:
        """Spend what it takes to walk through a value, shared parts as often as they are met."""
        if type(value) is str:
            self.spend(1 + len(value) // CHARACTERS_PER_STEP)
            return
        waiting, steps = [value], 0
        while waiting:
            one = waiting.pop()
            steps += ELEMENT_STEPS
            if isinstance(one, str):
                steps += len(one) // CHARACTERS_PER_STEP
            elif isinstance(one, int):
                steps += one.bit_length() // CHARACTERS_PER_STEP
            elif isinstance(one, Namespace):
                steps += ELEMENT_STEPS
                waiting += object.__getattribute__(one, "_Namespace__attrs").values()
            elif isinstance(one, range):
                steps += ELEMENT_STEPS * len(one)
            elif isinstance(one, (list, tuple, set, frozenset)):
                waiting += one
            elif isinstance(one, (dict, Mapping)):
                waiting += [*one.keys(), *one.values()]
            if steps > self.left:
                break
        self.spend(steps)


_budget = _Budget()


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    generation: bool = False,
    now: datetime | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The conversation as the tokenizer's chat template writes it; whatever the template raises passes.

    generation  end with what begins the assistant's answer
    now         what the template takes for the present time; by default it is
    variables   further values that the template may read
    """
    if not messages:
        raise ValueError("a conversation without messages")
    template = _compile(tokenizer.get_chat_template(None, tools))
    _budget.left = MAX_STEPS
    given = {**tokenizer.special_tokens_map, **(variables or {})}
    return template.render(
        messages=[_template_message(message) for message in messages],
        tools=None if tools is None else _to_plain(list(tools)),
        documents=None,
        add_generation_prompt=generation,
        **{NOW_VARIABLE: now or datetime.now()},
        **_to_plain(given),
    )


def template_names(tokenizer: Any, *, tools: bool) -> frozenset[str]:
    """Every name and text by which the template may ask for a part of a conversation."""
    source = tokenizer.get_chat_template(None, [{}] if tools else None)
    tree = _compile(source).environment.parse(source)
    attributes = {node.attr for node in tree.find_all(nodes.Getattr)}
    constants = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return frozenset(attributes | constants | find_undeclared_variables(tree))


def _template_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as transformers hands it to a template: nothing that is None, and its reasoning by every usual name."""
    known = {key: _to_plain(value) for key, value in message.items() if value is not None}
    reasoning = next((known[name] for name in REASONING_KEYS if name in known), None)
    return known if reasoning is None else {"thinking": reasoning, **known, "reasoning_content": reasoning}


def _to_plain(value: Any) -> Any:
    """The value in plain types: the methods of any other are not known to be harmless."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {_to_plain(key): _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(inner) for inner in value]
    return str.__str__(value) if isinstance(value, str) else f"<{type(value).__name__}>"


# What a template may use

NOW_VARIABLE = "the present time"
"""A variable no template can name."""


class _Namespace(Namespace):
    """A namespace whose names do not begin with an underscore."""

    def __init__(*args: Any, **named: Any) -> None:
        self, given = args[0], dict(*args[1:], **named)
        for name in given:
            _refuse_private(name)
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace with the name {name!r}, which begins with an underscore")


class _Dict:
    """`dict` without its attributes."""

    def __call__(self, *args: Any, **named: Any) -> dict[Any, Any]:
        return dict(*args, **named)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _GenerationTag(Extension):
    """`{% generation %}`, by which a template says what the assistant wrote: rendered as what it holds."""

    tags = {"generation"}  # noqa: RUF012, as jinja declares it

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is, without the escapes that HTML needs."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@jinja2.pass_context
def _strftime_now(context: Context, format: str) -> str:
    return str(context[NOW_VARIABLE].strftime(format))


# What that costs

CHARGED_BLOCKS = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)
"""What may run more than once: each run is charged."""


def _charge_node(cost: int) -> nodes.Filter:
    return nodes.Filter(nodes.Const(None), " charged", [nodes.Const(cost)], [], None, None)


def _weigh_node(node: Any) -> Any:
    return node if isinstance(node, nodes.Const) else nodes.Filter(node, " weighed", [], [], None, None)


def _count_steps(node: nodes.Node) -> int:
    """Steps of running a node once, but for what inner blocks are charged by themselves."""
    if isinstance(node, nodes.TemplateData):
        return 1 + len(node.data) // CHARACTERS_PER_STEP
    if isinstance(node, CHARGED_BLOCKS):
        return 1
    if isinstance(node, nodes.If):
        ways = [node.body, node.else_]
        return (
            1
            + _count_steps(node.test)
            + sum(map(_count_steps, node.elif_))
            + max(sum(map(_count_steps, way)) for way in ways)
        )
    own = (
        CALL_STEPS
        if isinstance(node, nodes.Call)
        else FILTER_STEPS
        if isinstance(node, (nodes.Filter, nodes.Test))
        else 1
    )
    return own + sum(map(_count_steps, node.iter_child_nodes()))


class _ChargingCodeGenerator(CodeGenerator):
    """Writes a template's code with its charges in it."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:  # noqa: N802, as jinja has it
        blocks: list[Any] = list(node.find_all(CHARGED_BLOCKS))
        costs = [sum(_count_steps(one) for one in block.body) for block in blocks]
        for output in node.find_all(nodes.Output):
            output.nodes = [one if isinstance(one, nodes.TemplateData) else _weigh_node(one) for one in output.nodes]
        for joined in node.find_all(nodes.Concat):
            joined.nodes = [_weigh_node(one) for one in joined.nodes]
        for compared in node.find_all(nodes.Compare):
            compared.expr = _weigh_node(compared.expr)
            for operand in compared.ops:
                operand.expr = _weigh_node(operand.expr)
        for made in node.find_all(nodes.List):
            made.items = [_weigh_node(one) for one in made.items]
        for group in node.find_all(nodes.Tuple):
            group.items = [_weigh_node(one) for one in group.items] if group.ctx == "load" else group.items
        for pair in node.find_all(nodes.Pair):
            pair.key, pair.value = _weigh_node(pair.key), _weigh_node(pair.value)
        for part in node.find_all(nodes.Getitem):
            if isinstance(part.arg, nodes.Slice):
                part.node = _weigh_node(part.node)
            else:
                part.arg = _weigh_node(part.arg)
        for block, cost in zip(blocks, costs, strict=True):
            block.body.insert(0, nodes.ExprStmt(_charge_node(1 + cost)))
            if isinstance(block, nodes.For) and block.test is not None:
                block.test = nodes.And(nodes.Not(_charge_node(1 + _count_steps(block.test))), block.test)
        node.set_environment(self.environment)
        super().visit_Template(node, frame)


def _weigh(value: Any) -> Any:
    """The value, paid for."""
    _budget.weigh(value)
    return value


def _weigh_operands(given: Iterable[Any]) -> list[Any]:
    """The operands, paid for; elements that were still to come have come."""
    return [_weigh(list(one) if isinstance(one, Iterator) else one) for one in given]


def _weigh_result(value: Any) -> Any:
    """What an operation gave, paid for; elements that are still to come are paid for as they do."""
    if isinstance(value, Iterator):
        return map(_weigh, value)
    _budget.weigh(value)
    return value


PADDING_OPERATIONS = {"center", "ljust", "rjust", "zfill", "indent", "wordwrap", "tojson"}
GROWING_OPERATIONS = {"replace", "join", "format", "batch", "slice", *PADDING_OPERATIONS}
"""Filters and methods whose result may be larger than all they are given."""

LARGE_WIDTH = re.compile(r"\d{5}|\*|\{[^{}]*\{")
"""In a format: a width or precision that is large, or given beside it."""


def _check_growth(name: str, value: Any, given: Iterable[Any]) -> None:
    """Refuse what might become too large, before it does."""
    most = max((_size_of(one) for one in given), default=0)
    if name in GROWING_OPERATIONS and (_size_of(value) + 1) * most > MAX_GROWTH:
        raise TemplateLimitError(f"{name} would write more than {MAX_GROWTH:,} characters")
    if name == "format" and isinstance(value, str) and LARGE_WIDTH.search(value):
        raise TemplateLimitError("a format with a width that is too large, or given beside it")


def _size_of(value: Any) -> int:
    return abs(value) if isinstance(value, int) else len(value) if isinstance(value, Sized) else 1


CONSTANT_FILTERS = {"length", "count", "first", "last", "default", "d"}
"""Filters that look at no more than one element, whatever they are given."""

SLOW_FILTERS = {"title", "wordcount", "urlencode", "wordwrap", "striptags", "pprint", "truncate"}
"""Filters that take a step for each character."""


def _charge_filter(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose operands and result are paid for."""
    first = 1 if hasattr(operation, "jinja_pass_arg") else 0

    @wraps(operation)
    def measured(*given: Any, **named: Any) -> Any:
        _budget.spend(FILTER_STEPS)
        if name in CONSTANT_FILTERS:
            _budget.spend(FILTER_STEPS)
            return operation(*given, **named)
        _budget.spend(FILTER_STEPS)
        passed, operands = given[:first], _weigh_operands(given[first:])
        _check_growth(name, operands[0], [*operands[1:], *named.values()])
        _budget.spend(_size_of(operands[0]) if name in SLOW_FILTERS else 0)
        return _weigh_result(operation(*passed, *operands, **named))

    return measured


def _charge_test(operation: Any) -> Callable[..., Any]:
    """A test that is paid for: by its operands where it compares some."""

    @wraps(operation)
    def measured(*given: Any) -> Any:
        for one in given if len(given) > 1 else ():
            _budget.weigh(one)
        _budget.spend(FILTER_STEPS)
        return operation(*given)

    return measured


class _LimitedEnvironment(ImmutableSandboxedEnvironment):
    """transformers' environment for chat templates, with charges."""

    code_generator_class = _ChargingCodeGenerator
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    hidden = frozenset({"translate", "maketrans", "expandtabs", "format_map"})
    """Methods of texts whose result may be of any size; no template has a use for them."""

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_GenerationTag, loopcontrols]
        )
        self.filters["tojson"] = _tojson
        for name in ("urlize", "xmlattr"):
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters = {name: _charge_filter(name, operation) for name, operation in self.filters.items()}
        self.tests = {name: _charge_test(operation) for name, operation in self.tests.items()}
        self.filters |= {" charged": lambda _, cost: _budget.spend(cost), " weighed": _weigh}
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr in self.hidden)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _budget.weigh(left)
        _budget.weigh(right)
        if operator == "%" and isinstance(left, str):
            _check_growth("format", left, right if isinstance(right, (list, tuple)) else [right])
        elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * (right if operator == "**" else 1) + right.bit_length() > MAX_BITS:
                raise TemplateLimitError(f"a number of more than {MAX_BITS:,} bits")
        elif operator == "*":
            text, times = (right, left) if isinstance(left, int) else (left, right)
            _check_growth("join", text, [times])
        return _weigh_result(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **named: Any) -> Any:  # noqa: N805, as jinja has it
        # The sandbox puts a function of its own around the method `format` of a text.
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        name = getattr(__obj, "__name__", "")
        _budget.spend(CALL_STEPS)
        if isinstance(owner, dict):  # gives what is there already
            return super().call(__context, __obj, *args, **named)
        _budget.weigh(owner)
        operands = _weigh_operands(args)
        _weigh_operands(named.values())
        _check_growth(name, owner, [*operands, *named.values()])
        return _weigh_result(super().call(__context, __obj, *operands, **named))


_shared_environment = cache(_LimitedEnvironment)


@cache
def _compile(source: str) -> jinja2.Template:
    if len(source) > MAX_SOURCE:
        raise TemplateLimitError(f"it has {len(source):,} characters, more than any template should")
    _budget.left = MAX_STEPS
    return _shared_environment().from_string(source)
