"""Commands that other tools have too: options may be written with underscores, and switches take true or false."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand

import bottega
from bottega.cli.app import errors
from bottega.cli.flag_aliases import BOOLEANS


class UnderscoreCommand(TyperCommand):
    """A command whose options may be written with underscores, and whose switches accept true or false."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        switches = {name for option in self.params if getattr(option, "is_flag", False) for name in option.opts}
        with errors("--json" in args):
            return super().parse_args(ctx, list(_normalize_options(self.translate(args, switches), switches)))

    def translate(self, args: list[str], switches: set[str]) -> list[str]:
        """The arguments with the names of options that the command has."""
        return args


def _normalize_options(args: list[str], switches: set[str]) -> Iterator[str]:
    """The words with dashes in the names of options. A value that follows a switch decides whether it is on."""
    remaining = list(reversed(args))  # the next word is the last item
    while remaining:
        word = remaining.pop()
        option, equals, value = word.partition("=")
        option = option.replace("_", "-")
        if word == "--":
            # Only arguments follow.
            yield from [word, *reversed(remaining)]
            return
        if not word.startswith("--"):
            yield word
        elif option not in switches:
            yield option + equals + value
            # The option's value, even if it looks like an option.
            if not equals and remaining:
                yield remaining.pop()
        else:
            if not equals and remaining and remaining[-1].lower() in BOOLEANS:
                equals, value = "=", remaining.pop()
            if equals and value.lower() not in BOOLEANS:
                raise bottega.RecipeError(
                    f"{value!r} is neither true nor false", where=option, fix=f"{option} alone means true"
                )
            yield from [option] * BOOLEANS.get(value.lower(), True)
