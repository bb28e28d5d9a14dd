"""The texts of errors and of findings as the code can say them, with `{}` for what is filled in.

Read from the source: a text may stand where the error is made, in a variable, in a constant, in what a function returns
or is given. What cannot be followed is a `{}` that is filled in.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, product
from pathlib import Path

import bottega
from bottega import errors

# Parts of the package whose texts nobody meets in the studio.
ELSEWHERE = ("cli/", "demo/", "server/jobs/")

RAISED = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
RAISED |= {"InvalidRow", "ValueError"}

# What takes such texts, and where: by position, and by the names in SAID.
TEXTS = {**dict.fromkeys(RAISED, (0,)), "Finding": (0, 2, 3), "finding": (0, 2, 3), "ApiError": (1,), "_response": (2,)}
SAID = {"what", "fix", "message"}

# Raised for the code around them, or with a code in place of words.
SILENT = {"ApiError", "AttributeError", "HTTPException", "KeyError", "NotImplementedError", "AssertionError"}

# Fields and parameters with such texts, of classes and functions that carry them to where they are said.
CARRIED = {"what", "fix", "reason", "hint", "why", "advice", "message"}

# Constants with words that texts are made of, chosen where this does not look.
TABLES = ("EXPECTED_VALUES", "BOUNDS")

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

FILLED = "{}"

# A text of more variants is said with what is filled in instead.
MAX_VARIANTS = 24

# A text goes through no more functions than these.
MAX_DEPTH = 6


@dataclass
class Scope:
    """A function, or the top of a module (without `node`)."""

    module: ast.Module
    node: ast.FunctionDef | ast.AsyncFunctionDef | None = None
    assigned: dict[str, list[ast.expr]] = field(default_factory=lambda: defaultdict(list))
    added: dict[str, list[ast.expr]] = field(default_factory=lambda: defaultdict(list))

    @cached_property
    def parameters(self) -> list[str]:
        arguments = self.node.args if self.node else None
        return [one.arg for one in (*arguments.args, *arguments.kwonlyargs)] if arguments else []

    def defaults(self) -> Iterator[tuple[str, ast.expr]]:
        """What its parameters are where they are not given."""
        if self.node is not None:
            given = self.node.args
            by_place = zip(reversed(given.args), reversed(given.defaults), strict=False)
            yield from ((one.arg, value) for one, value in by_place)
            by_name = zip(given.kwonlyargs, given.kw_defaults, strict=True)
            yield from ((one.arg, value) for one, value in by_name if value is not None)

    def __hash__(self) -> int:
        return id(self)


class Package:
    """The source of the package: its functions, its constants, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.scopes = list[Scope]()
        self.functions = defaultdict[str, list[Scope]](list)
        self.constants = defaultdict[str, list[tuple[Scope, ast.expr]]](list)
        self.carriers: dict[str, list[str]] = {}  # class → its fields, in order
        self.calls = defaultdict[str, list[tuple[Scope, ast.Call]]](list)
        self.raised = list[tuple[Scope, ast.Call]]()
        self.errors = set[str]()  # classes of its own
        self.parts = set[str]()  # texts inside of others
        self.asked = set[tuple[str, str]]()  # (function, parameter) whose arguments are said
        for path in sorted(folder.rglob("*.py")):
            if not path.relative_to(folder).as_posix().startswith(ELSEWHERE):
                self._read(ast.parse(path.read_text(encoding="utf-8")))

    def _read(self, module: ast.Module) -> None:
        top = Scope(module)
        self._walk(module, top)
        for name, values in top.assigned.items():
            self.constants[name] += [(top, value) for value in values]

    def _walk(self, node: ast.AST, scope: Scope) -> None:
        for child in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(child, FUNCTIONS):
                inner = Scope(scope.module, child)
                self.scopes.append(inner)
                self.functions[child.name].append(inner)
            elif isinstance(child, ast.ClassDef):
                fields = [one.target.id for one in child.body if _is_field(one)]
                if CARRIED & set(fields):
                    self.carriers[child.name] = fields
                if RAISED & {getattr(base, "id", "") for base in child.bases}:
                    self.errors.add(child.name)
            elif isinstance(child, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
                _assign(child, scope)
            elif isinstance(child, ast.For):
                _iterate(child, scope)
            elif isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and _name(child.exc) not in SILENT:
                self.raised.append((scope, child.exc))
            elif isinstance(child, ast.Call):
                self.calls[_name(child)].append((scope, child))
            self._walk(child, inner)

    def templates(self) -> set[str]:
        """Everything that is said."""
        found = set[str]()
        for scope, call in self.raised + [one for name in self.errors for one in self.calls[name]]:
            # The first argument of some is a code.
            found |= {text for text in self._arguments(scope, call, (0,), SAID) if " " in text}
        for name, positions in TEXTS.items():
            for scope, call in self.calls[name]:
                found |= self._arguments(scope, call, positions, SAID)
        for name, fields in self.carriers.items():
            positions = tuple(place for place, one in enumerate(fields) if one in CARRIED)
            for scope, call in self.calls[name]:
                found |= self._arguments(scope, call, positions, CARRIED)
        for scope in self.scopes:
            found |= {text for name, value in scope.defaults() if name in SAID for text in self.texts(value, scope)}
            for name in ("what", "fix", "unchecked"):
                found |= {text for value in scope.assigned.get(name, ()) for text in self.texts(value, scope)}
        for name in [name for name in self.functions if name == "notes" or name.endswith("_messages")]:
            for scope in self.functions[name]:
                found |= {text for said in _yielded(scope) for text in self.texts(said, scope) if " " in text}
        for name in [name for name in self.functions if name == "unchecked" or name.endswith("_problem")]:
            for scope in self.functions[name]:
                found |= {text for result in _returned(scope) for text in self.texts(result, scope) if " " in text}
        answered = set[tuple[str, str]]()
        while self.asked - answered:
            for name, parameter in self.asked - answered:
                answered.add((name, parameter))
                for function in self.functions[name]:
                    if parameter in function.parameters:
                        place = function.parameters.index(parameter) - (function.parameters[0] in ("self", "cls"))
                        for scope, call in self.calls[name]:
                            found |= self._arguments(scope, call, (place,), {parameter})
        words = {text for name in TABLES for text in self._values(name, depth=0)}
        # Filled in by `format`; a single word may be a value.
        self.parts |= {re.sub(r"\{[^{}]*\}", FILLED, text) for text in words if " " in text}
        found |= self.parts
        found = {text for text in found if ": ;" not in text}  # with nothing in place of a reason, which is never said
        return {text for text in found if any(character.isalpha() for character in text.replace(FILLED, ""))}

    def _arguments(self, scope: Scope, call: ast.Call, positions: Iterable[int], names: set[str]) -> set[str]:
        said = [call.args[place] for place in positions if 0 <= place < len(call.args)]
        said += [keyword.value for keyword in call.keywords if keyword.arg in names]
        return {text for expression in said for text in self.texts(expression, scope)}

    def texts(self, node: ast.expr, scope: Scope, depth: int = 0) -> set[str]:
        """What an expression can be; FILLED alone for what is not known."""
        if depth > MAX_DEPTH:
            return {FILLED}
        found = set(self._texts(node, scope, depth + 1))
        return found if 0 < len(found) <= MAX_VARIANTS else {FILLED}

    def _texts(self, node: ast.expr, scope: Scope, depth: int) -> Iterator[str]:
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.JoinedStr(values=parts):
                said = set(self._joined(self._part(part, scope, depth) for part in parts))
                if len(parts) > 1 and not any(text.replace(FILLED, "").strip() for text in said):
                    # Nothing but values: those that are texts are told apart.
                    values = (part.value if isinstance(part, ast.FormattedValue) else part for part in parts)
                    said = set(self._joined(self.texts(value, scope, depth) for value in values))
                yield from said
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                yield from self._joined((self.texts(left, scope, depth), self.texts(right, scope, depth)))
            case ast.IfExp(body=body, orelse=other):
                yield from self.texts(body, scope, depth) | self.texts(other, scope, depth)
            case ast.BoolOp(op=ast.Or(), values=values):
                yield from (text for value in values for text in self.texts(value, scope, depth))
            case ast.Name(id=name):
                yield from self._named(name, scope, depth)
            case ast.Call():
                for function in self._called(node, scope):
                    for result in _returned(function):
                        yield from self.texts(result, function, depth)
            case ast.Subscript(value=ast.Call() as call, slice=ast.Constant(value=int(place))):
                for function in self._called(call, scope):
                    for result in _returned(function):
                        if isinstance(result, ast.Tuple) and place < len(result.elts):
                            yield from self.texts(result.elts[place], function, depth)
                        elif isinstance(result, ast.Call):
                            yield from self.texts(ast.Subscript(result, ast.Constant(place)), function, depth)
            case ast.Starred(value=ast.Name(id=name)):
                for top, value in self.constants[name]:
                    if isinstance(value, ast.Dict):
                        yield from (text for one in value.keys if one for text in self.texts(one, top, depth))
            case ast.Subscript(value=ast.Name(id=name)) if name.isupper():
                yield from self._values(name, depth)
            case _:
                yield FILLED

    def _part(self, part: ast.expr, scope: Scope, depth: int) -> set[str]:
        """Of a text with values: those that are one text or another are told apart, others are filled in."""
        if not isinstance(part, ast.FormattedValue):
            return self.texts(part, scope, depth)
        texts = self.texts(part.value, scope, depth)
        if isinstance(part.value, ast.IfExp) or (isinstance(part.value, ast.Name) and "" in texts):
            return texts
        # Translated by themselves, but for single words, which may be values.
        self.parts |= {text for text in texts if len(text.replace(FILLED, "").split()) > 1}
        return {FILLED}

    def _joined(self, parts: Iterable[set[str]]) -> Iterator[str]:
        every = ("".join(chosen) for chosen in product(*map(sorted, parts)))
        yield from islice(every, MAX_VARIANTS + 1)

    def _named(self, name: str, scope: Scope, depth: int) -> Iterator[str]:
        if name in scope.assigned:
            for value in scope.assigned[name]:
                for text in self.texts(value, scope, depth):
                    yield text
                    for more in scope.added.get(name, ()):
                        yield from (text + added for added in self.texts(more, scope, depth))
        elif name in CARRIED | {"kind"} and name in scope.parameters and scope.node is not None:
            self.asked.add((scope.node.name, name))
            yield FILLED
            for more in scope.added.get(name, ()):
                yield from (FILLED + added for added in self.texts(more, scope, depth))
        elif name.isupper() and name in self.constants:
            yield from (text for top, value in self.constants[name] for text in self.texts(value, top, depth))
        else:
            yield FILLED

    def _values(self, name: str, depth: int) -> Iterator[str]:
        """Those of a constant dict."""
        for top, value in self.constants[name]:
            if isinstance(value, ast.Dict):
                yield from (text for one in value.values for text in self.texts(one, top, depth))

    def _called(self, call: ast.Call, scope: Scope) -> list[Scope]:
        """The functions that a call can mean: those of the module, else those of the package."""
        functions = self.functions[_name(call)]
        return [one for one in functions if one.module is scope.module] or functions


def error_templates() -> set[str]:
    """What errors and findings say and advise."""
    return Package(Path(bottega.__file__).parent).templates()


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def _assign(node: ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr, scope: Scope) -> None:
    """Note what names are given."""
    if isinstance(node, ast.AugAssign):
        if isinstance(node.target, ast.Name):
            scope.added[node.target.id].append(node.value)
        return
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=False))
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Call):
            items = (ast.Subscript(node.value, ast.Constant(place)) for place in range(len(target.elts)))
            pairs = list(zip(target.elts, items, strict=True))
        else:
            pairs = [(target, node.value)]
        for name, value in pairs:
            # An item of a dict of texts counts as the dict.
            named = name.value if isinstance(name, ast.Subscript) else name
            if isinstance(named, ast.Name) and value is not None and (named is name or named.id == "unchecked"):
                scope.assigned[named.id].append(value)


def _iterate(node: ast.For, scope: Scope) -> None:
    """Note what names are given by a loop over tuples, or over the items of a constant (as `*CONSTANT`: its keys)."""
    match node:
        case ast.For(target=ast.Tuple(elts=names), iter=ast.Tuple(elts=rows)):
            for row in rows:
                for name, value in zip(names, row.elts if isinstance(row, ast.Tuple) else (), strict=False):
                    if isinstance(name, ast.Name):
                        scope.assigned[name.id].append(value)
        case ast.For(
            target=ast.Tuple(elts=[ast.Name(id=key), _]),
            iter=ast.Call(func=ast.Attribute(value=ast.Name(id=constant), attr="items")),
        ) if constant.isupper():
            scope.assigned[key].append(ast.Starred(ast.Name(constant)))


def _returned(function: Scope) -> Iterator[ast.expr]:
    """What a function returns, but not those inside it."""
    yield from (node.value for node in _nodes(function) if isinstance(node, ast.Return) and node.value is not None)


def _yielded(function: Scope) -> Iterator[ast.expr]:
    """The second items of what a function yields: what is said of the first."""
    for node in _nodes(function):
        if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            yield node.value.elts[1]


def _nodes(function: Scope) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions inside it."""
    waiting = list[ast.AST](function.node.body if function.node else ())
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)
