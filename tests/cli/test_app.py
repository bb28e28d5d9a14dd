"""The application: options from models of settings, and errors in plain words."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

import bottega
from bottega.cli import interruption
from bottega.cli.app import CommandGroup, errors, options, parse_mapping, show_if_interrupted
from bottega.cli.commands import app

RUNNER = CliRunner()


class Settings(BaseModel):
    rows: int = Field(ge=1, description="How many rows.")
    names: tuple[str, ...] = ("default",)
    rate: float | None = None
    fast: bool = False
    renamed: str = Field("x", json_schema_extra={"option": "--other", "metavar": "WORD"})
    hidden: str = Field("y", json_schema_extra={"option": None})


@pytest.fixture
def settings_app() -> typer.Typer:
    """An application whose only command prints its settings."""
    application = typer.Typer(cls=CommandGroup)

    @application.command()
    @options(Settings, "settings", rate=0.5)
    def command(settings: Settings) -> None:
        print(settings.model_dump_json())

    application.callback()(lambda: None)
    return application


def test_the_version_is_that_of_the_package() -> None:
    result = RUNNER.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"bottega {version('bottega')}\n")


def test_every_field_is_an_option(settings_app: typer.Typer) -> None:
    default = json.loads(RUNNER.invoke(settings_app, ["command", "--rows", "2"]).stdout)
    assert default == {
        "rows": 2, "names": ["default"], "rate": 0.5, "fast": False, "renamed": "x", "hidden": "y",
    }  # fmt: skip
    given = ["command", "--rows", "3", "--names", "a", "--names", "b", "--rate", "0.1", "--fast", "--other", "z"]
    assert json.loads(RUNNER.invoke(settings_app, given).stdout) == {
        "rows": 3, "names": ["a", "b"], "rate": 0.1, "fast": True, "renamed": "z", "hidden": "y",
    }  # fmt: skip
    help_text = RUNNER.invoke(settings_app, ["command", "--help"], env={"COLUMNS": "200"}).stdout
    assert "How many rows." in help_text
    assert "WORD" in help_text
    assert "--hidden" not in help_text
    assert "--no-fast" not in help_text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("command", "missing option '--rows'"),
        ("command --rows 0", "--rows: 0 is out of range: it must be at least 1\n  → write a number that is at least 1"),
        ("command --rows two", "invalid value for '--rows': it must be a whole number"),
        ("command --rows 1 --names", "option '--names' requires an argument"),
        ("command --rows 1 --hidden z", "no such option: --hidden"),
    ],
)
def test_a_wrong_option_is_named(arguments: str, message: str, settings_app: typer.Typer) -> None:
    result = RUNNER.invoke(settings_app, arguments.split())
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_limits_of_an_option_are_those_of_its_field() -> None:
    result = RUNNER.invoke(app, ["evaluate", "run", "--rows", "0"])
    assert result.exit_code == 2
    assert (
        result.stderr
        == "error: --rows: 0 is out of range: it must be at least 1\n  → write a number that is at least 1\n"
    )


def test_a_mapping_is_parsed_and_a_pair_without_a_name_refused() -> None:
    assert parse_mapping(None) == {}
    assert parse_mapping(["label=intent", "text=a=b"]) == {"label": "intent", "text": "a=b"}
    for pair in ("label", "label=", "=intent"):
        with pytest.raises(bottega.RecipeError, match="expected FIELD=NAME"):
            parse_mapping([pair])


def test_an_error_is_printed_and_ends_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    error = bottega.DataError("no rows", where="a.jsonl", fix="add some")
    for as_json in (False, True):
        with pytest.raises(typer.Exit) as caught, errors(as_json):
            raise error
        assert caught.value.exit_code == 2
        output, message = capsys.readouterr()
        assert message == "error: a.jsonl: no rows\n  → add some\n"
        document = {"error": "DataError", "what": "no rows", "where": "a.jsonl", "fix": "add some"}
        assert (json.loads(output) if as_json else output) == (document if as_json else "")


def test_an_error_of_the_system_is_put_in_words_and_a_bug_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), errors(False):
        raise PermissionError(13, "Permission denied", "shut.jsonl")
    assert "shut.jsonl: cannot be read or written: Permission denied" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError), errors(False):
        raise ZeroDivisionError


def test_an_interruption_shows_the_last_preliminary_result() -> None:
    shown: list[str] = []
    known = pytest.raises(interruption.Interrupted, match="what is known so far is above")
    with known, show_if_interrupted(["first", "last"], shown.append):
        raise interruption.Interrupted
    assert shown == ["last"]
    with pytest.raises(interruption.Interrupted) as caught, show_if_interrupted([], shown.append):
        raise interruption.Interrupted
    assert (str(caught.value), shown) == ("", ["last"])
