"""The reference pages, written from the code itself.

python -m bottega.reference > docs/recipe.md
python -m bottega.reference commands > docs/commands.md
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bottega import objectives
from bottega.metrics import answers
from bottega.objectives import rewards
from bottega.recipe.schema import Recipe, Source

HEAD = """# The recipe

Every key, its values and its default. This page is generated from the code. Relative paths resolve against the
recipe's folder; on the command line, `section.key=value` overrides a key.
"""


def page() -> str:
    """The whole reference as Markdown."""
    sections = [(name, found) for name, field in Recipe.model_fields.items() if (found := _section(field))]
    sections = [(name, section) for name, section in sections if name != "objective"]
    names = [name for name, _ in sections]
    parts = [HEAD, *_table("Top level", Recipe, skip=[*names, "objective"])]
    for name, section in sections:
        parts += _table(f"`{name}`", section)
        if name == "data":
            parts += _table("A `source`", Source)
    for kind in objectives.kinds():
        parts += _table(f"`objective: {{kind: {kind}}}`", objectives.load(kind), skip=["kind"])
    parts += _table("A `reward`", rewards.RewardFunction, skip=["kind"])
    parts += [
        f"\nIn short a name: of a metric ({', '.join(answers.metric_names())}), or of a kind that needs no option."
    ]
    for kind in rewards.kinds():
        parts += _table(f"A reward `{{kind: {kind}}}`", rewards.load(kind), skip=["kind", "weight"])
    return "\n".join(parts)


COMMANDS_HEAD = """# The commands

Every command, its arguments and options. This page is generated from the code. `--json` prints the result for scripts;
progress goes to stderr. Exit codes: 0 done, 2 something to change in what was given
or on the disk, 130 interrupted (by whichever signal, at whatever stage), 1 anything else.
"""


def commands() -> str:
    """The command line as Markdown."""
    from bottega.cli.commands import app

    return "\n".join([COMMANDS_HEAD, *_commands(typer.main.get_command(app), "bottega")])


def _commands(command: Any, name: str) -> Iterator[str]:
    for inner in getattr(command, "commands", {}).values():
        yield from _commands(inner, f"{name} {inner.name}")
    if hasattr(command, "commands"):
        return
    yield f"\n## {name}\n"
    yield f"{command.help}\n"
    yield "| | default | |\n|---|---|---|"
    for parameter in command.params:
        if parameter.name == "help":
            continue
        option = parameter.opts[0].startswith("-")
        shown = ", ".join(parameter.opts) if option else (parameter.metavar or parameter.name.upper())
        default = parameter.default
        plain = default is None or default is False or default == () or default == "" or parameter.required
        said = "required" if parameter.required else "" if plain else f"`{default}`"
        choices = ", ".join(f"`{choice}`" for choice in _choices(parameter.type_descriptor.annotation))
        explained = f"{parameter.help or ''} {choices}".strip()
        yield f"| `{shown}` | {said} | {explained.replace('|', chr(92) + '|')} |"


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is typing.Literal else ()


def _table(title: str, model: type[BaseModel], skip: list[str] | None = None) -> Iterator[str]:
    yield f"\n## {title}\n"
    if model.__doc__:
        yield " ".join(model.__doc__.split("\n\n")[0].split()) + "\n"
    fields = {name: field for name, field in model.model_fields.items() if name not in (skip or [])}
    if fields:
        yield "| key | values | default | |\n|---|---|---|---|"
    for name, field in fields.items():
        default = "required" if field.default is PydanticUndefined and not field.default_factory else _default(field)
        yield f"| `{field.alias or name}` | {_values(field.annotation)} | {default} | {field.description or ''} |"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value is None or value == {} else f"`{list(value) if isinstance(value, tuple) else value}`"


def _values(annotation: Any) -> str:
    """An annotation in a reader's words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _values(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_values(argument) for argument in arguments if argument is not type(None)))
    if origin in (list, tuple):
        return f"list of {_values(arguments[0])}"
    if origin is dict:
        return "keys and values"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__.lower()}](#a-{annotation.__name__.lower()})"
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}[annotation]


def _section(field: FieldInfo) -> type[BaseModel] | None:
    candidates = [field.annotation, *get_args(field.annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


if __name__ == "__main__":
    print(commands() if sys.argv[1:] == ["commands"] else page(), end="")
