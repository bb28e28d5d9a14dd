"""The reference pages of the documentation, generated from the code.

python -m bottega.cli.docs > docs/recipe.md
python -m bottega.cli.docs commands > docs/commands.md
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import typer

import bottega

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


if __name__ == "__main__":
    print(commands() if sys.argv[1:] == ["commands"] else bottega.recipe_reference(), end="")
