"""`python -m bottega` is the command line, and starts fast."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from importlib.metadata import entry_points

import bottega.__main__
from bottega.cli.process import main

# Imports that the command line cannot do without.
NEEDED = "import typer.main, typer.rich_utils, rich.markdown, pydantic, yaml; pydantic.create_model('A', a=(int, 1))"


def test_help_starts_fast() -> None:
    """CPU time, relative to importing the libraries it needs: absolute times vary too much between machines."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def seconds(*arguments: str) -> float:
        """The least of two runs; the first compiles, as installing does."""
        found = []
        for _ in range(2):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(found)

    assert seconds("-m", "bottega", "--help") < 2 * seconds("-c", NEEDED)


def test_the_installed_command_is_the_same() -> None:
    (command,) = entry_points(group="console_scripts", name="bottega")
    assert command.load() is bottega.__main__.main is main
