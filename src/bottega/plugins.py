"""Code of the user's own: a class found in a file by what it derives from, and its mistakes told by file and line."""

from __future__ import annotations

import math
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from bottega.errors import BottegaError, RecipeError
from bottega.records import Unusable

T = TypeVar("T")


def load_class_from_file(path: str, base: type[T], example: str) -> type[T]:
    """The one class in the file that derives from `base` and was written there; a RecipeError where there is none."""
    if not Path(path).is_file():
        fix = "check objective.file; it resolves against the recipe's folder"
        raise RecipeError("no such file", where=path, fix=fix)
    with locate_user_errors(path):
        loaded = load_module_from_file(path)
    found = [one for one in vars(loaded).values() if isinstance(one, type) and issubclass(one, base)]
    own = [one for one in found if one.__module__ == loaded.__name__]
    if len(own) != 1:
        what = f"{len(own)} classes of {base.__name__} where one is wanted" if own else f"no class of {base.__name__}"
        raise RecipeError(what, where=path, fix=f"write one, as in: {example}")
    return own[0]


def load_function_from_file(path: str, name: str, example: str) -> Callable[..., Any]:
    """The function of a file by its name; a RecipeError where there is none."""
    if not Path(path).is_file():
        raise RecipeError("no such file", where=path, fix=f"name a file of Python, with: {example}")
    with locate_user_errors(path):
        found = getattr(load_module_from_file(path), name, None)
    if not callable(found):
        raise RecipeError(f"no function {name} in it", where=path, fix=f"write one: {example}")
    made: Callable[..., Any] = found
    return made


def check_score(mark: Any, path: str) -> float:
    """What a function of a file gave, as a number; a RecipeError where it is none."""
    try:
        number = math.nan if isinstance(mark, (str, bytes)) else float(mark)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(f"score gives {mark!r}, which is no number", where=path, fix="return a number, True or False")
    return number


def load_module_from_file(path: str) -> ModuleType:
    """The file as a module, as it is now."""
    return _load_module(path, Path(path).stat().st_mtime_ns)


@contextmanager
def locate_user_errors(path: str) -> Iterator[None]:
    """Turn what the code in a file raises into a RecipeError that names the line; errors that have a place pass.

    What it prints goes to stderr: stdout is for results alone.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (BottegaError, Unusable):
        raise
    except SystemExit as error:
        line = _line_in_file(error, path)
        if line is None:
            raise
        what = "it ends the program, which is not its to end"
        raise RecipeError(what, where=f"{path} line {line}", fix="raise an error that says what is wrong") from None
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # of torch, which has a remedy of its own
            raise
        line = _line_in_file(error, path)
        if line is None:
            raise
        text = str(error).strip().splitlines() or [""]
        what = f"{type(error).__name__}: {text[0]}" if text[0] else type(error).__name__
        raise RecipeError(what, where=f"{path} line {line}", fix="mend the file") from error


def _line_in_file(error: BaseException, path: str) -> int | None:
    """The last line of the file that the error went through; None where it never was in it."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno or 1
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return lines[-1] if lines else None


@cache
def _load_module(path: str, changed: int) -> ModuleType:
    """The file as it was when it was `changed`."""
    name = f"bottega_plugin_{abs(hash(path))}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError("not a Python file", where=path, fix="its name must end in .py")
    module = module_from_spec(spec)
    sys.modules[name] = module  # where pydantic looks for the names in its annotations
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def module_names(folder: Iterable[str]) -> list[str]:
    """Every public module of a package, by its `__path__`; neither `_helpers` nor packages within it."""
    modules = pkgutil.iter_modules(folder)
    return sorted(module.name for module in modules if not module.ispkg and not module.name.startswith("_"))


def load_class(package: str, name: str, base: type[T]) -> type[T]:
    """The one class of a package's module that derives from `base` and was written there."""
    module = import_module(f"{package}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    )
    return found
