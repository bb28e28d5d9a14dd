"""The recipe that `bottega init` writes: every key, with its description as a comment."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bottega import adapters, objectives
from bottega.errors import BottegaError, DataError, RecipeError
from bottega.objectives import OnPolicy
from bottega.recipe.schema import Data, Evaluate, Layout, Model, Optim, Recipe, Save, Source
from bottega.records import (
    Chat,
    Choice,
    Compared,
    Labelled,
    Multilabelled,
    Paired,
    Posed,
    Preference,
    Prompted,
    Record,
    Tagged,
    Text,
    Unpaired,
)
from bottega.records.formats import record_types
from bottega.suggestions import suggest_name

# Classes of records by how likely a row that could be several is meant as one. Two texts with a number from 0 to 1 have
# a similarity; any other value beside two texts is their label.
RECORD_ORDER = (
    Compared, Text, Prompted, Chat, Preference, Unpaired, Labelled, Multilabelled, Tagged, Paired, Choice, Posed,
)  # fmt: skip

# Column of the comments.
COMMENT_COLUMN = 46


def init(
    task: str,
    *,
    model: str | None = None,
    data: str | None = None,
    layout: Layout | None = None,
    folder: Path = Path(),
) -> str:
    """The text of a recipe for `task`: an objective, or a file of rows, whose format suggests one.

    model   what to start from; without one, a pre-training recipe has a shape
    data    rows, by path or hub id
    layout  how the file is laid out, if it does not say so itself
    folder  the recipe's folder, which its paths are relative to
    """
    if task not in objectives.kinds() and data is None and Path(task).exists():
        data, task = task, suggest_objective(task, layout)
    if task not in objectives.kinds() and (Path(task).suffix or "/" in task):
        fix = "give a file that exists, or an objective; for rows of the hub: bottega init sft --data NAME"
        raise DataError("no such file", where=task, fix=fix)
    if task not in objectives.kinds():
        raise RecipeError(f"unknown task {task!r}", where="bottega init", fix=suggest_name(task, objectives.kinds()))
    model, data = _relative_path(model, folder), _relative_path(data, folder)
    return "\n".join([*_header(task), *_recipe_lines(task, model, data, layout or Layout())]) + "\n"


def _relative_path(path: str | None, folder: Path) -> str | None:
    """An existing path relative to `folder`; anything else, such as a hub id, unchanged."""
    if path is None or Path(path).is_absolute() or not Path(path).exists():
        return path
    return os.path.relpath(path, folder)


def suggest_objective(path: str, layout: Layout | None = None) -> str:
    """The objective that the rows of a file suggest, by the first of them; a DataError if there is none."""
    record = _first_record(path, (*RECORD_ORDER, *record_types()), layout or Layout())
    for kind in objectives.SUGGESTION_ORDER:
        if isinstance(record, objectives.load(kind).reads):
            return kind
    what = "the file has no rows" if record is None else f"no objective for {type(record).__name__.lower()} rows"
    raise DataError(what, where=path, fix=f"give the objective: {', '.join(objectives.kinds())}")


def _has_reference_answer(path: str, layout: Layout) -> bool:
    """Whether the first prompt has a reference answer; True if it cannot be read, as from the hub without network."""
    with contextlib.suppress(BottegaError):
        record = _first_record(path, (Posed,), layout)
        return not isinstance(record, Posed) or bool(record.right)
    return True


def _first_record(path: str, reads: tuple[type, ...], layout: Layout) -> Record | None:
    """The first record of a file, read as one of the given types; None if the file has no rows."""
    from bottega.data.reader import read_records

    source = Source(path=str(Path(path).absolute()), **layout.model_dump())
    return next((record for _, record in read_records([source], reads)), None)


def _header(task: str) -> Iterator[str]:
    summary = (objectives.load(task).__doc__ or "").split("\n")[0]
    yield f"# {task}: {summary}"
    yield "# All keys are listed. A key after # has its default value; remove the # to change it"
    yield "#"
    yield "#   bottega preview recipe.yaml    show which tokens carry loss"
    yield "#   bottega train recipe.yaml      train"
    yield ""


def _recipe_lines(task: str, model: str | None, data: str | None, layout: Layout) -> Iterator[str]:
    objective = objectives.load(task)
    from_scratch = task == objectives.PLAIN_TEXT and model is None
    yield from _line("name", task, Recipe.model_fields["name"])
    yield from _line("seed", None, Recipe.model_fields["seed"])
    start: dict[str, Any] = {"base": model or "path/to/model"}
    if from_scratch:
        shape = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6}
        start = {"shape": shape | {"num_attention_heads": 4}, "tokenizer": "tokenizer"}
    yield from _section("model", Model, start)
    if not from_scratch and objective.head == "language":
        yield from _section("adapter", adapters.load(adapters.DEFAULT), {"rank": 16, "alpha": 32})
    file_layout = layout.model_dump(exclude_defaults=True)
    yield from _section("data", Data, {"train": data or "rows.jsonl", "validation": 0.1, **file_layout})
    no_reference = issubclass(objective, OnPolicy) and data is not None and not _has_reference_answer(data, layout)
    required = objective.example_options(answered=not no_reference)
    yield from _section("objective", objective, {"kind": task, **required})
    optim: dict[str, Any] = {"optimizer": "muon", "lr": 5e-3, "update_tokens": 16384} if from_scratch else {"epochs": 3}
    yield from _section("optim", Optim, optim)
    yield from _section("evaluate", Evaluate, {"stop_after": 5})
    yield from _section("save", Save, {"every": 100})


def _section(name: str, section: type[BaseModel], values: dict[str, Any]) -> Iterator[str]:
    """Lines of a section with all its keys: those with a value, and the others as comments with their defaults."""
    yield ""
    yield f"{name}:"
    for key, field in section.model_fields.items():
        yield from _line(field.alias or key, values.get(key), field, indent="  ")


def _line(key: str, value: Any, field: FieldInfo, indent: str = "") -> Iterator[str]:
    is_default = value is None
    if is_default:
        # A default factory may depend on fields that are validated before; none is given here.
        value = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
        value = list(value) if isinstance(value, tuple) else value
    text = f"{indent}{'# ' if is_default else ''}{key}: {_format_value(value)}"
    comment = f"# {field.description}" if field.description else ""
    yield f"{text:{COMMENT_COLUMN}} {comment}".rstrip()


def _format_value(value: Any) -> str:
    """A value as YAML in one line; empty for None."""
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    # A scalar alone would be followed by a document end marker.
    return yaml.safe_dump(value, width=float("inf"), allow_unicode=True).partition("\n")[0]
