"""What the commands share: the application, options made from settings, waiting and errors shown to a person."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from typer.core import TyperGroup

import bottega
from bottega.cli import hints, interruption

T = TypeVar("T")

USAGE: type[Exception] = typer.BadParameter.__mro__[1]
"""What is raised of a command line that cannot be read; typer brings it along under a private name."""


PLAIN = {
    "a valid integer, unable to parse string as an integer": "a whole number",
    "a valid number, unable to parse string as a number": "a number",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
    "Value error, ": "",
    "Input should be": "it must be",
}
"""What typer says of an option's value in pydantic's words, and in ours."""


class Commands(TyperGroup):
    """Our commands: what is wrong with how one is called is told like any other error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[__name__] = list(args)
        with self._told(ctx, ()):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with self._told(ctx, ctx.meta[__name__]):
            return super().invoke(ctx)

    @contextmanager
    def _told(self, ctx: Any, words: Sequence[str]) -> Iterator[None]:
        """Tell what is misread inside; where an error does not say of which command, `words` of ours name it."""
        try:
            yield
        except USAGE as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # it is the help
                raise
            with errors("--json" in ctx.meta[__name__]):
                raise _misread(error, vars(error)["ctx"] or _innermost(ctx, words)) from None


def _innermost(ctx: Any, words: Sequence[str]) -> Any:
    """The context of the command that the words name, however deep it stands below that of `ctx`."""
    for word in words:
        if not isinstance(ctx.command, TyperGroup):
            break
        command = ctx.command.get_command(ctx, word)
        ctx = ctx if command is None else type(ctx)(command, info_name=word, parent=ctx)
    return ctx


def _misread(error: Any, ctx: Any) -> bottega.RecipeError:
    """What is wrong with a command line, as an error of ours."""
    command, path = ctx.command, " ".join(["bottega", *ctx.command_path.split()[1:]])
    what = str(error.format_message()).rstrip(".")
    if what.startswith("No such option"):
        parameters = {one.name: one.opts[0] if one.opts[0].startswith("-") else _shown(one) for one in command.params}
        fix = hints.for_option(error.option_name, path, parameters)
        return bottega.RecipeError(f"no such option: {error.option_name}", where=path, fix=fix)
    if what.startswith("No such command"):
        quoted = what.removeprefix("No such command ").partition(". Did you mean ")[0]
        word = quoted[1:-1]  # in quotation marks of either kind, and it may hold the other
        fix = hints.for_command(word, path, command.commands)
        return bottega.RecipeError(f"no such command: {word}", where=path, fix=fix)
    for theirs, ours in PLAIN.items():
        what = what.replace(theirs, ours)
    return bottega.RecipeError(what[:1].lower() + what[1:], where=path, fix=f"how it is called: {path} -h")


def _shown(argument: Any) -> str:
    """An argument, as help shows it."""
    return str(argument.metavar or argument.name).strip("[]").upper()


app = typer.Typer(
    cls=Commands,
    help="The workshop where a small language model learns its trade.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
TRAIN, USE, LOOK = "Teach a model", "Use it", "Look at it"
"""Headings of the help."""


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value …]", help="For example optim.lr=1e-4")]
LaidOut = Annotated[
    list[str] | None,
    typer.Option(
        "--read",
        metavar="KEY=VALUE",
        help="How the rows' file is laid out, as in data: encoding=latin-1; several times.",
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"bottega {version('bottega')}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    pass


def options(settings: type[BaseModel], name: str, **defaults: Any) -> Callable[[Callable[..., Any]], Any]:
    """Give a command every field of `settings` as an option; it receives them checked, as the argument `name`.

    defaults  where the command's differ from the fields' own
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(command, eval_str=True)
        added = [
            inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for field, default, annotation in _as_options(settings, defaults)
        ]
        before = [parameter for parameter in own.parameters.values() if parameter.name != name]
        before = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in before]

        @wraps(command)
        def checked(**given: Any) -> Any:
            values = {parameter.name: given.pop(parameter.name) for parameter in added}
            with errors(given.get("as_json", False)):
                return command(**given, **{name: _checked(settings, values)})

        vars(checked)["__signature__"] = inspect.Signature([*before, *added])
        checked.__annotations__ = {parameter.name: parameter.annotation for parameter in (*before, *added)}
        return checked

    return decorate


def _as_options(settings: type[BaseModel], defaults: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, default, annotation) of each field that is an option, as typer takes them."""
    for name, field in settings.model_fields.items():
        option = _option_name(name, field)
        if option is None:
            continue
        kind, many = _option_type(field.annotation)
        default = defaults.get(name, ... if field.is_required() else None if many else field.default)
        metavar = _declared(field).get("metavar")
        # Declared by name, so that a bool gets no `--no-…` twin.
        yield name, default, Annotated[kind, typer.Option(option, help=field.description, metavar=metavar)]


def _declared(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _option_name(name: str, field: FieldInfo) -> str | None:
    """The option of a field: `json_schema_extra` may rename it, or keep it off the command line with None."""
    option: str | None = _declared(field).get("option", f"--{name.replace('_', '-')}")
    return option


def _option_type(annotation: Any) -> tuple[Any, bool]:
    """(the type of a field as typer takes it, whether it may be given several times)."""
    if get_origin(annotation) is Annotated:
        return _option_type(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return list[str] | None, True
    if get_origin(annotation) in (Union, UnionType):
        inner = [part for part in get_args(annotation) if part is not type(None)]
        if len(inner) == 1:
            kind, many = _option_type(inner[0])
            return kind if many else kind | None, many
    return annotation, False


def _checked(settings: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    fields = settings.model_fields
    # An option that may be given several times, and was not given, is None or empty here: the field has its default.
    given = {name: value for name, value in values.items() if value or not _option_type(fields[name].annotation)[1]}
    try:
        return settings(**given)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]) if problem["loc"] else None
        where = name and (_option_name(name, fields[name]) if name in fields else f"--{name}")
        what, fix = bottega.describe_errors([problem])
        raise bottega.RecipeError(what, where=where, fix=fix or "see the command's --help") from None


def busy(words: str) -> AbstractContextManager[Any]:
    """A sign of life while something goes on."""
    from bottega.cli.views import progress_console

    return progress_console().status(words)


@contextmanager
def shown_if_stopped(known: Sequence[T], show: Callable[[T], None]) -> Iterator[None]:
    """Where what is measured inside is interrupted, show the last that was known of it."""
    try:
        yield
    except interruption.Interrupted:
        if not known:
            raise
        show(known[-1])
        raise interruption.Interrupted("stopped before all was measured; what is known so far is above") from None


LIBRARIES = {"HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""Set before libraries are imported, where the user has not. What transformers advises is meant for its own callers:
of rows without padding that end in a token some would pad with, it says that they need a mask."""


@contextmanager
def errors(as_json: bool) -> Iterator[None]:
    """Show an error as what, where and what to do, and exit with its code; so, too, what the system refuses."""
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)
    try:
        yield
    except Exception as raised:
        interruption.check()
        error = raised if isinstance(raised, bottega.BottegaError) else bottega.from_system_error(raised)
        if error is None:
            raise
        if as_json:
            shown = {"error": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
            print(json.dumps(shown))
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
