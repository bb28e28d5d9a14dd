"""Plug-ins: built-in classes registered by file name, and classes or functions in a file of the user's.

An error in the user's code becomes a RecipeError with the file and line.
"""

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

from bottega.errors import BottegaError, RecipeError, Unusable

T = TypeVar("T")


# Built-in plug-ins


def module_names(folder: Iterable[str]) -> list[str]:
    """The public modules of a package, given by its `__path__`: neither `_private` ones nor subpackages."""
    modules = pkgutil.iter_modules(folder)
    return sorted(module.name for module in modules if not module.ispkg and not module.name.startswith("_"))


def load_class(package: str, name: str, base: type[T]) -> type[T]:
    """The one subclass of `base` that a package's module defines."""
    module = import_module(f"{package}.{name}")
    # Imported subclasses have another `__module__`. A ValueError here is a mistake in the package itself.
    (loaded,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    )
    return loaded


# Files of the user's


def load_class_from_file(path: str, base: type[T], example: str) -> type[T]:
    """The one subclass of `base` that a file defines; a RecipeError if there is none, or more than one.

    example  a line of code to show in the error
    """
    if not Path(path).is_file():
        fix = "check objective.file; it resolves against the recipe's folder"
        raise RecipeError("no such file", where=path, fix=fix)
    with locate_user_errors(path):
        module = load_module_from_file(path)
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, base)]
    own = [value for value in classes if value.__module__ == module.__name__]
    if len(own) != 1:
        name = base.__name__
        what = (
            f"it defines {len(own)} subclasses of {name}, expected one" if own else f"it defines no subclass of {name}"
        )
        raise RecipeError(what, where=path, fix=f"define one: {example}")
    return own[0]


def load_function_from_file(path: str, name: str, example: str) -> Callable[..., Any]:
    """The function of that name in a file; a RecipeError if there is none.

    example  a line of code to show in the error
    """
    if not Path(path).is_file():
        raise RecipeError("no such file", where=path, fix=f"give the path of a Python file with: {example}")
    with locate_user_errors(path):
        value = getattr(load_module_from_file(path), name, None)
    if not callable(value):
        raise RecipeError(f"no function {name} in it", where=path, fix=f"define it: {example}")
    function: Callable[..., Any] = value
    return function


def check_score(value: Any, path: str) -> float:
    """The value that a `score` function returned, as a float; a RecipeError if it is not a finite number."""
    try:
        # float("0.5") would succeed, yet a text is surely a mistake.
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        what = f"score returned {value!r}, which is not a finite number"
        raise RecipeError(what, where=path, fix="return a number, True or False")
    return number


def load_module_from_file(path: str) -> ModuleType:
    """The file as a module, loaded again if it changed."""
    return _load_module(path, Path(path).stat().st_mtime_ns)


@cache
def _load_module(path: str, modified: int) -> ModuleType:
    """The file as a module; `modified`, its time of modification, is part of the cache's key."""
    name = f"bottega_plugin_{abs(hash(path))}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError("not a Python file", where=path, fix="its name must end in .py")
    module = module_from_spec(spec)
    # Before execution: pydantic looks up the names in annotations there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def locate_user_errors(path: str) -> Iterator[None]:
    """Turn exceptions raised in the file's code into RecipeErrors that name the line; errors of bottega pass.

    What the code prints goes to stderr, because stdout is for results.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (BottegaError, Unusable):
        raise
    except SystemExit as error:
        line = _line_in_file(error, path)
        if line is None:  # the program itself exits
            raise
        what = "it ends the program, which only bottega may do"
        raise RecipeError(what, where=f"{path} line {line}", fix="raise an error that says what is wrong") from None
    except Exception as error:
        # torch's error for a full GPU: the engine adds advice to it. By name, to import no torch here.
        if type(error).__name__ == "OutOfMemoryError":
            raise
        line = _line_in_file(error, path)
        if line is None:
            raise
        text = str(error).strip().splitlines() or [""]
        what = f"{type(error).__name__}: {text[0]}" if text[0] else type(error).__name__
        raise RecipeError(what, where=f"{path} line {line}", fix="fix the code in this file") from error


def _line_in_file(error: BaseException, path: str) -> int | None:
    """The innermost line of the file in the traceback; None if the file is not in it."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno or 1
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return lines[-1] if lines else None
