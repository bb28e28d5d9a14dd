"""The reference pages generated from the code."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
import typer

import bottega
from bottega.cli import docs
from making import ROOT


@pytest.mark.parametrize(("page", "generate"), [("recipe", bottega.recipe_reference), ("commands", docs.commands)])
def test_the_pages_of_the_documentation_are_up_to_date(page: str, generate: object) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert text == generate(), "make docs writes them anew"  # type: ignore[operator]


def test_a_command_has_a_section_with_a_row_per_parameter() -> None:
    application = typer.Typer()
    group = typer.Typer()
    application.add_typer(group, name="group")

    @group.command()
    def act(
        files: Annotated[list[str], typer.Argument(metavar="FILE …", help="One | more.")],
        kind: Annotated[Literal["a", "b"], typer.Option(help="Which:")] = "a",
        seed: Annotated[int, typer.Option("--seed", "-s")] = 0,
        name: Annotated[str, typer.Option()] = "",
        dry: Annotated[bool, typer.Option("--dry", help="Do nothing.")] = False,
    ) -> None:
        """Act on files."""

    section = "\n".join(docs._command_sections(typer.main.get_command(application), "tool"))
    assert section.splitlines() == [
        "", "## tool group act", "", "Act on files.", "",
        "| | default | |", "|---|---|---|",
        "| `FILE …` | required | One \\| more. |",
        "| `--kind` | `a` | Which: `a`, `b` |",
        "| `--seed, -s` | `0` |  |",
        "| `--name` |  |  |",
        "| `--dry` |  | Do nothing. |",
    ]  # fmt: skip
