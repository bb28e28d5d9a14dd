"""A custom objective: a class in the user's file, whose errors are reported with the file's line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, wraps
from types import FunctionType
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, create_model

from bottega.batch import UNITS, Batch, Loss, Row, Term
from bottega.errors import RecipeError
from bottega.objectives import Objective
from bottega.plugins import load_class_from_file, locate_user_errors

EXAMPLE = "class Mine(Sft): def loss(self, scores, batch): return Loss({'nll': Term(…, 'token')})"

# The methods and properties through which an objective is used: a user's class may override any of them, so an error
# in any of them may be the user's to fix. A test holds this list to what Objective and OnPolicy define.
MEMBERS = (
    "augment",
    "closing_note",
    "code_files",
    "compares_with_reference",
    "count_labels",
    "evaluation_rows",
    "is_informative",
    "logit_temperature",
    "loss",
    "metadata",
    "model_names",
    "needs",
    "on_policy",
    "pooling_mode",
    "prediction",
    "prompt_and_reference",
    "rows",
    "smoothing",
    "tag_scheme",
    "training_examples",
    "weighted",
    "window_row",
    "window_tokens",
)


# Members that had other names: one that a user's class still defines by such a name would never be called.
FORMER_MEMBERS = {
    "about": "metadata",
    "asked": "prompt_and_reference",
    "by_label": "stratify",
    "chosen": "class_for",
    "concluding": "closing_note",
    "drawn": "augment",
    "examined": "evaluation_rows",
    "labels": "count_labels",
    "learned": "training_examples",
    "passage": "window_tokens",
    "probes": "needs",
    "reference": "needs",
    "splits": "can_split",
    "statistics": "needs",
    "teaches": "is_informative",
    "tempering": "logit_temperature",
    "window": "window_row",
}


class Custom(Objective):
    """Your own objective: the class in a Python file that derives from `Objective` or from a built-in objective.

    Its fields are further options of the recipe.
    """

    reads: ClassVar[tuple[type, ...]] = ()

    kind: Literal["custom"] = "custom"
    file: str = Field(description="Python file with the class, relative to the recipe's folder.")

    @classmethod
    def example_options(cls, *, answered: bool) -> dict[str, Any]:
        return {"file": "my_loss.py"}

    @classmethod
    def class_for(cls, options: Mapping[str, Any]) -> type[Objective]:
        file = options.get("file")
        if not isinstance(file, str):
            raise ValueError("custom needs file: a Python file with a class that derives from Objective")
        return _recipe_class(load_class_from_file(file, Objective, EXAMPLE), file)


# Cached, because objectives are compared: the same file must give the same class.
@cache
def _recipe_class(user_class: type[Objective], file: str) -> type[Objective]:
    """A subclass of the user's class with the keys `kind` and `file`, which checks results and locates errors."""
    fields: dict[str, Any] = {"kind": (Literal["custom"], ...), "file": (str, ...)}
    with locate_user_errors(file):
        subclass = create_model(user_class.__name__, __base__=user_class, __module__=user_class.__module__, **fields)
    _refuse_former_names(user_class, file)
    for name in MEMBERS:
        # Statically, because a property would be evaluated. What is neither, as a field or a class variable, runs no
        # code and stays as it is.
        member = inspect.getattr_static(user_class, name, None)
        if isinstance(member, property) and member.fget is not None:
            setattr(subclass, name, property(_locating(member.fget, file)))
        elif isinstance(member, FunctionType):
            setattr(subclass, name, _locating(member, file))
    for name, problem in (("rows", _rows_problem), ("loss", _loss_problem)):
        setattr(subclass, name, _checking(getattr(subclass, name), file, problem))
    return subclass


def _refuse_former_names(user_class: type[Objective], file: str) -> None:
    """A RecipeError if the class defines a member by a name that is not called any more: it would have no effect."""
    for former, name in FORMER_MEMBERS.items():
        member = inspect.getattr_static(user_class, former, None)
        # A field may have such a name: it is an option of the user's own.
        overrides = isinstance(member, (property, FunctionType, classmethod)) or former in user_class.__class_vars__
        if overrides and not hasattr(Objective, former):
            raise RecipeError(f"{former} is called {name} now", where=file, fix=f"rename it to {name}")


def _locating(method: Callable[..., Any], file: str) -> Callable[..., Any]:
    """The method, with errors raised in the file turned into RecipeErrors that name the line."""

    @wraps(method)
    def located(*arguments: Any, **options: Any) -> Any:
        with locate_user_errors(file):
            return method(*arguments, **options)

    return located


def _checking(method: Callable[..., Any], file: str, problem: Callable[..., str]) -> Callable[..., Any]:
    """The method, with a RecipeError if `problem`, called with its result and arguments, names one."""

    @wraps(method)
    def checked(self: Objective, *arguments: Any) -> Any:
        result = method(self, *arguments)
        message = problem(result, *arguments)
        if message:
            raise RecipeError(f"{method.__name__}: {message}", where=file, fix=f"for example {EXAMPLE}")
        return result

    return checked


def _rows_problem(examples: Any, *arguments: Any) -> str:
    """What is wrong with the examples of a record; empty if nothing is."""
    if not isinstance(examples, list) or not all(isinstance(example, tuple) and example for example in examples):
        return "must return a list of examples, each a tuple of at least one Row"
    return next((problem for example in examples for row in example if (problem := _row_problem(row))), "")


def _row_problem(row: Any) -> str:
    # What would otherwise fail far from its cause, in packing or in the model.
    if not isinstance(row, Row):
        return f"returned a {type(row).__name__} instead of a Row"
    if not all(isinstance(array, np.ndarray) for array in (row.tokens, row.at, row.label, row.weight)):
        return "returned a Row whose tokens, at, label or weight is not a NumPy array"
    if not len(row.at) or not len(row.at) == len(row.label) == len(row.weight):
        sizes = f"{len(row.at)}, {len(row.label)} and {len(row.weight)}"
        return f"returned a Row whose at, label and weight have {sizes} values: they must be equal, and not 0"
    if row.at[0] < 0 or row.at[-1] >= len(row.tokens) or (np.diff(row.at) <= 0).any():
        return f"returned a Row of {len(row.tokens)} tokens whose at is out of range or not in ascending order"
    return ""


def _loss_problem(loss: Any, scores: Any, batch: Batch) -> str:
    """What is wrong with a loss; empty if nothing is."""
    if not isinstance(loss, Loss) or not loss.terms:
        return f"returned a {type(loss).__name__} instead of a Loss with terms"
    units = (*UNITS, *batch.columns)
    terms = (term for term in (*loss.terms.values(), *loss.metrics.values()) if isinstance(term, Term))
    unknown = next((term.unit for term in terms if term.unit not in units), None)
    return "" if unknown is None else f"has a term with the unit {unknown!r}; known: {', '.join(units)}"
