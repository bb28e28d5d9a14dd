"""What the commands share: the application, options made from pydantic models, and errors in words."""

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

# click's UsageError: typer ships its own copy of click, under a private name.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

# typer reports invalid values in pydantic's words; replaced in this order.
PLAIN_WORDS = {
    "a valid integer, unable to parse string as an integer": "a whole number",
    "a valid number, unable to parse string as a number": "a number",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
    "Value error, ": "",
    "Input should be": "it must be",
}

# Headings of the help.
TRAIN, USE, LOOK = "Train a model", "Use a model", "Inspect data and runs"

# Environment of libraries, unless the user has set it: no telemetry, and no warnings meant for programmers.
# One would ask for an attention mask if a row ends in the padding token, which packed rows do not need.
LIBRARY_SETTINGS = {"HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}


class CommandGroup(TyperGroup):
    """The group of all commands; reports a wrong call like any other error, with a hint."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # `invoke` needs the words, and click consumes them.
        ctx.meta[__name__] = list(args)
        with self._usage_errors(ctx, ()):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with self._usage_errors(ctx, ctx.meta[__name__]):
            return super().invoke(ctx)

    @contextmanager
    def _usage_errors(self, ctx: Any, words: Sequence[str]) -> Iterator[None]:
        """Report usage errors; `words` find the command of an error that does not know its own."""
        try:
            yield
        except USAGE_ERROR as error:
            # Raised to print the help of a group that was called without a command.
            if type(error).__name__ == "NoArgsIsHelpError":
                raise
            with errors("--json" in ctx.meta[__name__]):
                raise _recipe_error(error, vars(error)["ctx"] or _command_context(ctx, words)) from None


def _command_context(ctx: Any, words: Sequence[str]) -> Any:
    """The context of the command that the words name, at any depth below `ctx`."""
    for word in words:
        if not isinstance(ctx.command, TyperGroup):
            break
        command = ctx.command.get_command(ctx, word)
        ctx = ctx if command is None else type(ctx)(command, info_name=word, parent=ctx)
    return ctx


def _recipe_error(error: Any, ctx: Any) -> bottega.RecipeError:
    """A usage error of click as an error with what, where and fix."""
    # The program may be called otherwise, such as `python -m bottega`.
    command, path = ctx.command, "bottega" + ctx.command_path.removeprefix(ctx.find_root().command_path)
    message = str(error.format_message()).rstrip(".")
    if message.startswith("No such option"):
        parameters = {
            parameter.name: parameter.opts[0] if parameter.opts[0].startswith("-") else _argument_name(parameter)
            for parameter in command.params
        }
        fix = hints.for_option(error.option_name, path, parameters)
        return bottega.RecipeError(f"no such option: {error.option_name}", where=path, fix=fix)
    if message.startswith("No such command"):
        quoted = message.removeprefix("No such command ").partition(". Did you mean ")[0]
        word = quoted[1:-1]  # quotation marks of either kind, and the word may contain the other
        fix = hints.for_command(word, path, command.commands)
        return bottega.RecipeError(f"no such command: {word}", where=path, fix=fix)
    for words, plain_words in PLAIN_WORDS.items():
        message = message.replace(words, plain_words)
    return bottega.RecipeError(message[:1].lower() + message[1:], where=path, fix=f"see {path} -h")


def _argument_name(argument: Any) -> str:
    """The name of an argument, as the help displays it."""
    return str(argument.metavar or argument.name).strip("[]").upper()


app = typer.Typer(
    cls=CommandGroup,
    help="Train, fine-tune, align and evaluate small language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Dtype = Annotated[
    str, typer.Option(help="auto, bfloat16, float16, float32, or int8: weights in 8 bits, on a CPU with the operators.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value …]", help="Recipe keys to change, such as optim.lr=1e-4.")
]
FileLayout = Annotated[
    list[str] | None,
    typer.Option(
        "--read",
        metavar="KEY=VALUE",
        help="Layout of the file, as in the recipe's data section: encoding=latin-1. May be repeated.",
    ),
]
FieldMapping = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="FIELD=NAME", help="Name of a field in the file: label=intent. May be repeated."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        # Slow to import.
        from importlib.metadata import version

        print(f"bottega {version('bottega')}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def options(settings: type[BaseModel], name: str, **defaults: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that gives a command every field of `settings` as an option.

    The command receives a validated instance as the argument `name`.

    defaults  defaults that differ from those of the fields
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        option_parameters = [
            inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for field, default, annotation in _options_of(settings, defaults)
        ]
        # Keyword-only: a parameter without a default may then follow one with a default.
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in signature.parameters.values()
            if parameter.name != name
        ]

        @wraps(command)
        def with_settings(**arguments: Any) -> Any:
            values = {parameter.name: arguments.pop(parameter.name) for parameter in option_parameters}
            with errors(arguments.get("as_json", False)):
                return command(**arguments, **{name: _validate(settings, values)})

        # typer reads signature and annotations, not the function.
        vars(with_settings)["__signature__"] = inspect.Signature([*parameters, *option_parameters])
        with_settings.__annotations__ = {
            parameter.name: parameter.annotation for parameter in (*parameters, *option_parameters)
        }
        return with_settings

    return decorate


def _options_of(settings: type[BaseModel], defaults: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, default, annotation) of each field that is an option, as typer takes them."""
    for name, field in settings.model_fields.items():
        option = _option_name(name, field)
        if option is None:
            continue
        option_type, repeatable = _option_type(field.annotation)
        default = defaults.get(name, ... if field.is_required() else None if repeatable else field.default)
        metavar = _extra(field).get("metavar")
        # With the option's name given, typer adds no `--no-…` to a bool.
        yield name, default, Annotated[option_type, typer.Option(option, help=field.description, metavar=metavar)]


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _option_name(name: str, field: FieldInfo) -> str | None:
    """The option of a field: `json_schema_extra` may rename it, or keep it off the command line with None."""
    option: str | None = _extra(field).get("option", f"--{name.replace('_', '-')}")
    return option


def _option_type(annotation: Any) -> tuple[Any, bool]:
    """(type of the option for typer, whether it may be repeated)."""
    if get_origin(annotation) is Annotated:
        return _option_type(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return list[str] | None, True
    if get_origin(annotation) in (Union, UnionType):
        inner = [part for part in get_args(annotation) if part is not type(None)]
        if len(inner) == 1:
            option_type, repeatable = _option_type(inner[0])
            return option_type if repeatable else option_type | None, repeatable
    return annotation, False


def _validate(settings: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    fields = settings.model_fields
    # A repeatable option that was not given is None or empty: the field keeps its default.
    given = {name: value for name, value in values.items() if value or not _option_type(fields[name].annotation)[1]}
    try:
        return settings(**given)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]) if problem["loc"] else None
        where = name and (_option_name(name, fields[name]) if name in fields else f"--{name}")
        what, fix = bottega.describe_errors([problem])
        raise bottega.RecipeError(what, where=where, fix=fix or "see the command's --help") from None


def parse_mapping(pairs: Sequence[str] | None) -> dict[str, str]:
    """The fields of `--map`: bottega's name → the file's."""
    mapping = {}
    for pair in pairs or ():
        field, sign, name = pair.partition("=")
        if not sign or not field or not name:
            raise bottega.RecipeError(f"expected FIELD=NAME, not {pair!r}", where="--map", fix="write label=intent")
        mapping[field] = name
    return mapping


def busy(message: str) -> AbstractContextManager[Any]:
    """A spinner on stderr with a message."""
    from bottega.cli.console import progress_console

    return progress_console().status(message)


@contextmanager
def show_if_interrupted(preliminary: Sequence[T], show: Callable[[T], None]) -> Iterator[None]:
    """If the work inside is interrupted, show its last preliminary result."""
    try:
        yield
    except interruption.Interrupted:
        if not preliminary:
            raise
        show(preliminary[-1])
        message = "stopped before everything was measured; what is known so far is above"
        raise interruption.Interrupted(message) from None


@contextmanager
def errors(as_json: bool) -> Iterator[None]:
    """Print an error of bottega or of the system as what, where and fix, and exit with its code."""
    for name, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        yield
    except Exception as raised:
        # A library may have turned an interruption into an error of its own.
        interruption.check()
        error = raised if isinstance(raised, bottega.BottegaError) else bottega.from_system_error(raised)
        if error is None:
            raise
        if as_json:
            document = {"error": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
            print(json.dumps(document))
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
