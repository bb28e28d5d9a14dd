"""The commands of the application."""

from __future__ import annotations

import typer
from typer.testing import CliRunner

from bottega.cli.commands import app

TRAIN = ["train", "plan", "finetune", "init", "preview", "demo", "tokenizer"]
USE = ["generate", "chat", "classify", "tag", "fill", "embed", "export"]
LOOK = ["audit", "evaluate", "advise", "show", "runs", "doctor"]


def test_the_help_lists_every_command_in_its_panel() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    first_words = [line.strip("│ ").partition(" ")[0] for line in result.stdout.splitlines()]
    listed = [word for word in first_words if word in {*TRAIN, *USE, *LOOK}]
    assert sorted(listed) == sorted([*TRAIN, *USE, *LOOK])
    for panel in (TRAIN, USE, LOOK):
        assert [word for word in listed if word in panel] == panel


def test_every_command_says_what_it_does() -> None:
    group = typer.main.get_command(app)
    assert all(command.help for command in group.commands.values())  # type: ignore[attr-defined]
