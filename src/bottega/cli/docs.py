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

HEADER = """# The commands

Every command, its arguments and options. This page is generated from the code. `--json` prints the result for scripts;
progress goes to stderr. Exit codes: 0 done; 2 an error in the input, the files or the disk; 130 interrupted, by
whichever signal and at whatever stage; 1 anything else.
"""


def commands() -> str:
    """The reference of the command line, as Markdown."""
    # Imports all commands, which the page of recipe keys does not need.
    from bottega.cli.commands import app

    return "\n".join([HEADER, *_command_sections(typer.main.get_command(app), "bottega")])


def _command_sections(command: Any, name: str) -> Iterator[str]:
    """The section of a command, or of each command of a group."""
    for subcommand in getattr(command, "commands", {}).values():
        yield from _command_sections(subcommand, f"{name} {subcommand.name}")
    if hasattr(command, "commands"):
        return
    yield f"\n## {name}\n"
    yield f"{command.help}\n"
    yield "| | default | |\n|---|---|---|"
    for parameter in command.params:
        # Every command has --help.
        if parameter.name != "help":
            yield _parameter_row(parameter)


def _parameter_row(parameter: Any) -> str:
    is_option = parameter.opts[0].startswith("-")
    name = ", ".join(parameter.opts) if is_option else (parameter.metavar or parameter.name.upper())
    # Written as comparisons: 0 is a default worth printing, False is not.
    has_default = (
        not parameter.required
        and not any(parameter.default is value for value in (None, False))
        and parameter.default not in ((), "")
    )
    default = "required" if parameter.required else f"`{parameter.default}`" if has_default else ""
    choices = ", ".join(f"`{choice}`" for choice in _choices(parameter.type_descriptor.annotation))
    description = f"{parameter.help or ''} {choices}".strip()
    # A bar would end the cell.
    return f"| `{name}` | {default} | {description.replace('|', chr(92) + '|')} |"


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is typing.Literal else ()


if __name__ == "__main__":
    print(commands() if sys.argv[1:] == ["commands"] else bottega.recipe_reference(), end="")
