"""An objective of the user's own, in a file beside the recipe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, wraps
from types import FunctionType
from typing import Any, ClassVar, Literal

import numpy as np

from bottega.batch import UNITS, Batch, Loss, Row, Term
from bottega.errors import RecipeError
from bottega.objectives import Objective, OnPolicy
from bottega.plugins import load_class_from_file, locate_user_errors

EXAMPLE = "class Mine(Sft): def loss(self, scores, batch): return Loss({'nll': Term(…, 'token')})"


class Custom(Objective):
    """What the one class in a Python file says that derives from `Objective`, or from any objective there is.

    Its `rows` make predictions of a record, its `loss` makes sums of their scores, its fields are further options of
    the recipe. What it raises is told by file and line.

    file  the Python file
    """

    reads: ClassVar[tuple[type, ...]] = ()

    kind: Literal["custom"] = "custom"
    file: str

    @classmethod
    def class_for(cls, options: Mapping[str, Any]) -> type[Objective]:
        file = options.get("file")
        if not isinstance(file, str):
            raise ValueError("custom needs file: a Python file with a class that derives from Objective")
        return _watched(load_class_from_file(file, Objective, EXAMPLE), file)


@cache
def _watched(own: type[Objective], file: str) -> type[Objective]:
    """The class, with what its methods raise and give told by file and line; the same for the same class."""
    methods = {name: _guarded_attribute(inspect.getattr_static(own, name), file) for name in _overridable(own)}
    methods["rows"] = _checked(methods["rows"], file, _check_rows)
    methods["loss"] = _checked(methods["loss"], file, _check_loss)
    fields = {"kind": Literal["custom"], "file": str}
    with locate_user_errors(file):
        return type(own.__name__, (own,), {"__module__": own.__module__, "__annotations__": fields, **methods})


def _overridable(own: type[Objective]) -> list[str]:
    """The public methods and properties by which an objective is used, those of pydantic left out."""
    ours = {name for base in own.__mro__ if issubclass(base, Objective) for name in vars(base)}
    known = {name for base in (Objective, OnPolicy) for name in vars(base) if not name.startswith("_")}
    methods = (property, FunctionType)
    return sorted(name for name in ours & known if isinstance(inspect.getattr_static(own, name), methods))


def _guarded_attribute(attribute: Any, file: str) -> Any:
    if isinstance(attribute, property):
        assert attribute.fget is not None
        return property(_guarded(attribute.fget, file))
    return _guarded(attribute, file)


def _guarded(method: Callable[..., Any], file: str) -> Callable[..., Any]:
    @wraps(method)
    def guarded(*given: Any, **options: Any) -> Any:
        with locate_user_errors(file):
            return method(*given, **options)

    return guarded


def _checked(method: Callable[..., Any], file: str, check: Callable[..., str]) -> Callable[..., Any]:
    @wraps(method)
    def checked(*given: Any, **options: Any) -> Any:
        found = method(*given, **options)
        wrong = check(found, *given[1:])
        if wrong:
            raise RecipeError(f"{method.__name__} {wrong}", where=file, fix=f"for example {EXAMPLE}")
        return found

    return checked


def _check_rows(found: Any, *given: Any) -> str:
    """What is wrong with the examples of a record; empty where nothing is."""
    if not isinstance(found, list) or not all(isinstance(one, tuple) and one for one in found):
        return "gives no list of examples, each a tuple of rows, and not of none"
    for row in (row for example in found for row in example):
        if not isinstance(row, Row):
            return f"gives a {type(row).__name__} where a Row is wanted"
        if not all(isinstance(part, np.ndarray) for part in (row.tokens, row.at, row.label, row.weight)):
            return "gives a row whose tokens, places, labels or weights are no NumPy arrays"
        if not len(row.at) or not len(row.at) == len(row.label) == len(row.weight):
            sizes = f"{len(row.at)}, {len(row.label)} and {len(row.weight)}"
            return f"gives a row with {sizes} places, labels and weights, which must be as many, and not none"
        if row.at[0] < 0 or row.at[-1] >= len(row.tokens) or (np.diff(row.at) <= 0).any():
            return f"gives a row of {len(row.tokens)} tokens with places that are not in it, or not in ascending order"
    return ""


def _check_loss(found: Any, scores: Any, batch: Batch) -> str:
    if not isinstance(found, Loss) or not found.terms:
        return f"gives a {type(found).__name__}, and no Loss with terms"
    units = (*UNITS, *batch.columns)
    named = (one.unit for one in (*found.terms.values(), *found.metrics.values()) if isinstance(one, Term))
    wrong = next((unit for unit in named if unit not in units), None)
    return "" if wrong is None else f"counts by {wrong!r}, which is none of {', '.join(units)}"
