"""Render chat templates within limits: a template is a program that comes with a checkpoint, and may never end.

The text is the one transformers' `apply_chat_template` renders. In addition, everything a template does is charged to a
budget of steps: each turn of a loop and each call by the size of its body, each value by its size. The count depends on
the template and the conversation alone, not on time, so the same rows are refused on every machine.
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

# Steps of one rendering, about a second; a conversation of a hundred turns takes some ten thousand.
MAX_STEPS = 4_000_000

# Steps to visit an element of a value, to apply a filter or a test, and to make a call.
ELEMENT_STEPS, FILTER_STEPS, CALL_STEPS = 5, 10, 50

# Characters that are written, or searched through, in one step.
CHARACTERS_PER_STEP = 32

# An integer may have this many bits: multiplying larger ones takes time that no step count reflects.
MAX_BITS = 4096

# Characters or elements that one operation may make of its operands, by an upper bound known before it runs.
MAX_GROWTH = 1 << 28

# Characters of a template's source.
MAX_SOURCE = 1 << 18

# Names under which messages carry reasoning; transformers gives a template the first two of them.
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")


class TemplateLimitError(Exception):
    """A template that does more than any reasonable one."""


class _Budget(threading.local):
    """The steps left to the rendering of this thread."""

    left = MAX_STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise TemplateLimitError("it takes more steps than any template should: does it loop without end?")

    def charge(self, value: Any) -> None:
        """Charge for visiting every element of a nested value; a shared one as often as it is met."""
        if type(value) is str:
            self.spend(1 + len(value) // CHARACTERS_PER_STEP)
            return
        # An explicit stack: a deeply nested value would exceed Python's recursion limit.
        stack, steps = [value], 0
        while stack:
            item = stack.pop()
            steps += ELEMENT_STEPS
            if isinstance(item, str):
                steps += len(item) // CHARACTERS_PER_STEP
            elif isinstance(item, int):
                steps += item.bit_length() // CHARACTERS_PER_STEP
            elif isinstance(item, Namespace):
                steps += ELEMENT_STEPS
                # Jinja hides a namespace's values behind its own attribute access.
                stack += object.__getattribute__(item, "_Namespace__attrs").values()
            elif isinstance(item, range):
                steps += ELEMENT_STEPS * len(item)
            elif isinstance(item, (list, tuple, set, frozenset)):
                stack += item
            elif isinstance(item, (dict, Mapping)):
                stack += [*item.keys(), *item.values()]
            if steps > self.left:  # nested shared lists may have more elements than could ever be visited
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
    """Render a conversation with the tokenizer's chat template; what the template raises is not caught.

    generation  end with the generation prompt
    now         the time the template is given; by default the present time
    variables   further values that the template may read
    """
    if not messages:
        raise ValueError("a conversation without messages")
    template = _compile(tokenizer.get_chat_template(None, tools))
    _budget.left = MAX_STEPS
    values = {**tokenizer.special_tokens_map, **(variables or {})}
    return template.render(
        messages=[_template_message(message) for message in messages],
        tools=None if tools is None else _to_plain(list(tools)),
        documents=None,
        add_generation_prompt=generation,
        **{NOW_VARIABLE: now or datetime.now()},
        **_to_plain(values),
    )


def template_names(tokenizer: Any, *, tools: bool) -> frozenset[str]:
    """Every attribute, variable and string constant in the template, by which it may read a field."""
    source = tokenizer.get_chat_template(None, [{}] if tools else None)
    tree = parse(source)
    attributes = {node.attr for node in tree.find_all(nodes.Getattr)}
    constants = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return frozenset(attributes | constants | find_undeclared_variables(tree))


def parse(source: str) -> nodes.Template:
    """The syntax tree of a template; a TemplateLimitError or jinja's TemplateSyntaxError if it cannot be rendered."""
    return _compile(source).environment.parse(source)


def _template_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as transformers gives it to a template: without None, and with its reasoning under every usual name."""
    fields = {key: _to_plain(value) for key, value in message.items() if value is not None}
    reasoning = next((fields[name] for name in REASONING_KEYS if name in fields), None)
    return fields if reasoning is None else {"thinking": reasoning, **fields, "reasoning_content": reasoning}


def _to_plain(value: Any) -> Any:
    """Convert a value to built-in types: the methods of any other type may have side effects or take any time."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {_to_plain(key): _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(inner) for inner in value]
    return str.__str__(value) if isinstance(value, str) else f"<{type(value).__name__}>"


# What a template may use

# Not an identifier, so that no template can read or overwrite it.
NOW_VARIABLE = "the present time"


class _Namespace(Namespace):
    """Jinja's namespace without names that begin with an underscore, which reach its internals."""

    def __init__(*args: Any, **named: Any) -> None:
        self, values = args[0], dict(*args[1:], **named)
        for name in values:
            _refuse_private(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(
            f"a namespace attribute {name!r} that begins with an underscore is not allowed"
        )


class _Dict:
    """`dict` as a function, without the attributes of the class."""

    def __call__(self, *args: Any, **named: Any) -> dict[Any, Any]:
        return dict(*args, **named)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _GenerationTag(Extension):
    """The tag `{% generation %}`, which marks the assistant's text: rendered as its content."""

    tags = {"generation"}  # noqa: RUF012, as jinja declares it

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without HTML escapes, as transformers has it; Jinja's own filter would escape <, > and &."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@jinja2.pass_context
def _strftime_now(context: Context, format: str) -> str:
    return str(context[NOW_VARIABLE].strftime(format))


# Charges in the code of a template

# Blocks that may run more than once: each run is charged.
CHARGED_BLOCKS = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


def _charge_steps_node(cost: int) -> nodes.Filter:
    # The leading space keeps templates from naming the filter.
    return nodes.Filter(nodes.Const(None), " charge_steps", [nodes.Const(cost)], [], None, None)


def _charge_value_node(node: Any) -> Any:
    return node if isinstance(node, nodes.Const) else nodes.Filter(node, " charge_value", [], [], None, None)


def _count_steps(node: nodes.Node) -> int:
    """Steps of running a node once; blocks inside it are charged separately."""
    if isinstance(node, nodes.TemplateData):
        return 1 + len(node.data) // CHARACTERS_PER_STEP
    if isinstance(node, CHARGED_BLOCKS):
        return 1
    if isinstance(node, nodes.If):
        branches = [node.body, node.else_]
        # Which branch runs is not known before: the dearer one is charged.
        dearest = max(sum(map(_count_steps, branch)) for branch in branches)
        return 1 + _count_steps(node.test) + sum(map(_count_steps, node.elif_)) + dearest
    if isinstance(node, nodes.Call):
        steps = CALL_STEPS
    else:
        steps = FILTER_STEPS if isinstance(node, (nodes.Filter, nodes.Test)) else 1
    return steps + sum(map(_count_steps, node.iter_child_nodes()))


class _ChargingCodeGenerator(CodeGenerator):
    """Compiles a template with its charges in the code."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:  # noqa: N802, as jinja has it
        # Costs are counted first: the nodes added below are no work of the template's.
        blocks: list[Any] = list(node.find_all(CHARGED_BLOCKS))
        costs = [sum(_count_steps(item) for item in block.body) for block in blocks]
        # Every operation that takes time in proportion to its operands is charged for them.
        for output in node.find_all(nodes.Output):
            output.nodes = [
                item if isinstance(item, nodes.TemplateData) else _charge_value_node(item) for item in output.nodes
            ]
        for concat in node.find_all(nodes.Concat):
            concat.nodes = [_charge_value_node(item) for item in concat.nodes]
        for comparison in node.find_all(nodes.Compare):
            comparison.expr = _charge_value_node(comparison.expr)
            for operand in comparison.ops:
                operand.expr = _charge_value_node(operand.expr)
        for literal in node.find_all(nodes.List):
            literal.items = [_charge_value_node(item) for item in literal.items]
        for group in node.find_all(nodes.Tuple):
            group.items = [_charge_value_node(item) for item in group.items] if group.ctx == "load" else group.items
        for pair in node.find_all(nodes.Pair):
            pair.key, pair.value = _charge_value_node(pair.key), _charge_value_node(pair.value)
        for item in node.find_all(nodes.Getitem):
            if isinstance(item.arg, nodes.Slice):
                item.node = _charge_value_node(item.node)
            else:
                item.arg = _charge_value_node(item.arg)
        for block, cost in zip(blocks, costs, strict=True):
            block.body.insert(0, nodes.ExprStmt(_charge_steps_node(1 + cost)))
            if isinstance(block, nodes.For) and block.test is not None:
                # `for x in y if test`: the test also runs for elements that the body never sees.
                # The charge evaluates to None, hence the "not".
                block.test = nodes.And(nodes.Not(_charge_steps_node(1 + _count_steps(block.test))), block.test)
        # New nodes have no environment yet, which the compiler needs.
        node.set_environment(self.environment)
        super().visit_Template(node, frame)


def _charge(value: Any) -> Any:
    """Charge for a value and return it."""
    _budget.charge(value)
    return value


def _charge_operands(operands: Iterable[Any]) -> list[Any]:
    """Charge for operands and return them, iterators as lists."""
    return [_charge(list(operand) if isinstance(operand, Iterator) else operand) for operand in operands]


def _charge_result(value: Any) -> Any:
    """Charge for the result of an operation and return it; the elements of an iterator are charged as they come."""
    if isinstance(value, Iterator):
        return map(_charge, value)
    _budget.charge(value)
    return value


# Filters and methods that pad their result to a width.
PADDING_OPERATIONS = {"center", "ljust", "rjust", "zfill", "indent", "wordwrap", "tojson"}
# Filters and methods whose result may be larger than all their operands.
GROWING_OPERATIONS = {"replace", "join", "format", "batch", "slice", *PADDING_OPERATIONS}

# In a format string: a width or precision that is large, or given as another operand.
LARGE_WIDTH = re.compile(r"\d{5}|\*|\{[^{}]*\{")


def _check_growth(name: str, value: Any, operands: Iterable[Any]) -> None:
    """Raise a TemplateLimitError if the result may become too large, before it is computed."""
    largest = max((_size_of(operand) for operand in operands), default=0)
    if name in GROWING_OPERATIONS and (_size_of(value) + 1) * largest > MAX_GROWTH:
        raise TemplateLimitError(f"{name} would write more than {MAX_GROWTH:,} characters")
    if name == "format" and isinstance(value, str) and LARGE_WIDTH.search(value):
        raise TemplateLimitError("a format with a width that is too large, or is itself an operand")


def _size_of(value: Any) -> int:
    return abs(value) if isinstance(value, int) else len(value) if isinstance(value, Sized) else 1


# Filters that look at one element at most, whatever the size of their operand.
CONSTANT_FILTERS = {"length", "count", "first", "last", "default", "d"}

# Filters that take a step for each character.
SLOW_FILTERS = {"title", "wordcount", "urlencode", "wordwrap", "striptags", "pprint", "truncate"}


def _charge_filter(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that charges for its operands and its result."""
    # Jinja passes the context or environment as first argument to filters that ask for it.
    first = 1 if hasattr(operation, "jinja_pass_arg") else 0

    @wraps(operation)
    def charged(*args: Any, **kwargs: Any) -> Any:
        _budget.spend(FILTER_STEPS)
        if name in CONSTANT_FILTERS:
            _budget.spend(FILTER_STEPS)
            return operation(*args, **kwargs)
        _budget.spend(FILTER_STEPS)
        context, operands = args[:first], _charge_operands(args[first:])
        _check_growth(name, operands[0], [*operands[1:], *kwargs.values()])
        _budget.spend(_size_of(operands[0]) if name in SLOW_FILTERS else 0)
        return _charge_result(operation(*context, *operands, **kwargs))

    return charged


def _charge_test(operation: Any) -> Callable[..., Any]:
    """A test that charges for its operands, if it compares several."""

    @wraps(operation)
    def charged(*args: Any) -> Any:
        for operand in args if len(args) > 1 else ():
            _budget.charge(operand)
        _budget.spend(FILTER_STEPS)
        return operation(*args)

    return charged


class _LimitedEnvironment(ImmutableSandboxedEnvironment):
    """transformers' environment for chat templates, with charges and without what they never use."""

    code_generator_class = _ChargingCodeGenerator
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    # String methods whose result may be of any size; no template has a use for them.
    hidden_methods = frozenset({"translate", "maketrans", "expandtabs", "format_map"})

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
        self.filters |= {" charge_steps": lambda _, cost: _budget.spend(cost), " charge_value": _charge}
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and not (
            isinstance(obj, str) and attr in self.hidden_methods
        )

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _budget.charge(left)
        _budget.charge(right)
        if operator == "%" and isinstance(left, str):
            _check_growth("format", left, right if isinstance(right, (list, tuple)) else [right])
        elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * (right if operator == "**" else 1) + right.bit_length() > MAX_BITS:
                raise TemplateLimitError(f"an integer of more than {MAX_BITS:,} bits")
        elif operator == "*":
            text, times = (right, left) if isinstance(left, int) else (left, right)
            _check_growth("join", text, [times])
        return _charge_result(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **named: Any) -> Any:  # noqa: N805, as jinja has it
        # The sandbox wraps `str.format` in a function of its own.
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        name = getattr(__obj, "__name__", "")
        _budget.spend(CALL_STEPS)
        if isinstance(owner, dict):  # its methods return what is already there
            return super().call(__context, __obj, *args, **named)
        _budget.charge(owner)
        operands = _charge_operands(args)
        _charge_operands(named.values())
        _check_growth(name, owner, [*operands, *named.values()])
        return _charge_result(super().call(__context, __obj, *operands, **named))


_shared_environment = cache(_LimitedEnvironment)


@cache
def _compile(source: str) -> jinja2.Template:
    if len(source) > MAX_SOURCE:
        raise TemplateLimitError(f"it has {len(source):,} characters, more than any template should")
    _budget.left = MAX_STEPS
    template = _shared_environment().from_string(source)
    # A rendering copies them, several times faster from a dict than from the map of maps that jinja makes.
    template.globals = dict(template.globals)
    return template
