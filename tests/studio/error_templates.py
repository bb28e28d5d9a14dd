"""The texts of errors and of findings as they stand in the code, with `{}` for what is filled in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import bottega
from bottega import errors

# Parts of the package whose errors nobody meets in the studio.
ELSEWHERE = {"cli", "server", "demo"}

RAISED = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
RAISED |= {"InvalidRow", "ValueError"}


def error_templates() -> set[str]:
    """What errors and findings say and advise; texts that are put together elsewhere are not found."""
    package = Path(bottega.__file__).parent
    found = set[str]()
    for path in package.rglob("*.py"):
        if path.relative_to(package).parts[0] in ELSEWHERE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said = _said(node) if isinstance(node, ast.Call) else _named(node) if isinstance(node, ast.Assign) else ()
            found |= {text for expression in said for text in _texts(expression) if _has_words(text)}
    return found


def _said(call: ast.Call) -> Iterator[ast.expr]:
    """The arguments of a call that a person reads: of an error what and fix, of a finding its kind, too."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in RAISED:
        yield from call.args[:1]
    elif name in ("Finding", "finding"):
        yield from (call.args[place] for place in (0, 2, 3) if place < len(call.args))
    else:
        return
    yield from (keyword.value for keyword in call.keywords if keyword.arg in ("what", "fix"))


def _named(assignment: ast.Assign) -> Iterator[ast.expr]:
    """What is given the name `what` or `fix`, before an error takes it."""
    for target in assignment.targets:
        if isinstance(target, ast.Tuple) and isinstance(assignment.value, ast.Tuple):
            pairs = list(zip(target.elts, assignment.value.elts, strict=False))
        else:
            pairs = [(target, assignment.value)]
        yield from (value for name, value in pairs if isinstance(name, ast.Name) and name.id in ("what", "fix"))


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from (*_texts(node.body), *_texts(node.orelse))


def _has_words(text: str) -> bool:
    """Not a code or a value alone."""
    return any(character.isalpha() for character in text.replace("{}", ""))
