"""What all views share: consoles, tables, bars, the progress line, units in words."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from bottega.cli import console as module
from bottega.cli.console import (
    BAR_WIDTH,
    PIPE_WIDTH,
    bars,
    format_duration,
    format_memory,
    progress,
    progress_console,
    results_console,
    table,
)


def rendered(renderable: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_results_go_to_stdout_and_progress_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    results_console().print("result")
    progress_console().print("progress")
    progress_console(quiet=True).print("nothing")
    assert capsys.readouterr() == ("result\n", "progress\n")


def test_piped_results_are_wide_unless_columns_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert results_console().width == PIPE_WIDTH
    monkeypatch.setenv("COLUMNS", "72")
    assert results_console().width == 72


def test_the_cells_of_a_table_are_shown_as_they_are() -> None:
    assert rendered(table("Title", ["name", "rows"], [["[red]a[/]", 3], ["b", 12]])) == [
        "Title",
        "name       rows",
        "[red]a[/]  3",
        "b          12",
    ]


def test_numbers_are_never_broken_into_two_lines() -> None:
    lines = rendered(table("", ["name", "loss", "step", "rows"], [["a-long-name", *["12.456"] * 3]]), width=26)
    assert [line.count("12.456") for line in lines if "12" in line] == [3]
    assert max(map(len, lines)) <= 26


def test_a_bar_is_as_long_as_its_fraction_and_never_empty() -> None:
    lines = rendered(bars("", [("[half]", 0.5), ("full", 1.0), ("none", 0.0)]))
    assert [line.split() for line in lines if line] == [
        ["[half]", "█" * (BAR_WIDTH // 2), "50.0%"],
        ["full", "█" * BAR_WIDTH, "100.0%"],
        ["none", "█", "0.0%"],
    ]


def test_the_progress_line_shows_what_is_done_of_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    monkeypatch.setattr(module, "progress_console", lambda: console)
    with progress("reading") as tell:
        tell("scoring rows", 1500, 4000)
        tell("loading")
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "reading" in shown
    assert "loading" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h"), (9000, "2.5 h")],
)
def test_a_duration_has_a_readable_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_memory_of_an_accelerator_is_named_if_there_is_one() -> None:
    assert format_memory(3.25e9, 0) == "3.2 GB"
    assert format_memory(3e9, 1.5e9) == "3.0 GB (host), 1.5 GB (GPU)"
