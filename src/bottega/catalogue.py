"""One file a thing, found by its file name: the objectives, and what an audit checks."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from typing import TypeVar

T = TypeVar("T")


def names(folder: Iterable[str]) -> list[str]:
    """Every module of a package, by its `__path__`."""
    return sorted(module.name for module in pkgutil.iter_modules(folder))


def load(package: str, name: str, base: type[T]) -> type[T]:
    """The one class of a package's module that derives from `base` and was written there."""
    module = import_module(f"{package}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    )
    return found
