"""A recipe to begin with, every key explained by its own description: `bottega init`."""

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

LIKELY = ("dpo", "kto", "classify", "tag", "contrastive", "causal", "sft", "grpo")
"""Objectives for rows of which nothing is said: the first that reads them."""

# Classes of records by how likely a row that could be several is meant as one. Two texts with a number from 0 to 1 have
# a similarity; any other value beside two texts is their label.
RECORD_ORDER = (
    Compared, Text, Prompted, Chat, Preference, Unpaired, Labelled, Multilabelled, Tagged, Paired, Choice, Posed,
)  # fmt: skip

NEEDED: dict[str, dict[str, Any]] = {"custom": {"file": "my_loss.py"}, "grpo": {"rewards": ["exact"]}}
"""What an objective cannot do without."""

UNANSWERED: dict[str, Any] = {"rewards": [{"kind": "custom", "file": "my_reward.py"}]}
"""Of prompts without a right answer only a reward of one's own says something."""

WIDTH = 46
"""Where comments begin."""


def init(
    task: str,
    *,
    model: str | None = None,
    data: str | None = None,
    layout: Layout | None = None,
    folder: Path = Path(),
) -> str:
    """The text of a recipe for `task`: an objective, or a file of rows that shows which.

    model   what to start from; a pre-training recipe starts from a shape
    data    rows, by path or hub id
    layout  how their file is laid out, where it does not say so itself
    folder  where the recipe will stand: its paths are seen from there
    """
    if task not in objectives.kinds() and data is None and Path(task).exists():
        data, task = task, suggest_objective(task, layout)
    if task not in objectives.kinds() and (Path(task).suffix or "/" in task):
        fix = "give a file of rows that is there, or an objective; rows of the hub: bottega init sft --data NAME"
        raise DataError("no such file", where=task, fix=fix)
    if task not in objectives.kinds():
        raise RecipeError(f"unknown task {task!r}", where="bottega init", fix=suggest_name(task, objectives.kinds()))
    return (
        "\n".join([*_head(task), *_recipe(task, _seen(model, folder), _seen(data, folder), layout or Layout())]) + "\n"
    )


def _seen(path: str | None, folder: Path) -> str | None:
    """A path that exists as it is called from `folder`; anything else as it is."""
    if path is None or Path(path).is_absolute() or not Path(path).exists():
        return path
    return os.path.relpath(path, folder)


def suggest_objective(path: str, layout: Layout | None = None) -> str:
    """The objective the rows of a file are for."""
    record = _first(path, (*RECORD_ORDER, *record_types()), layout or Layout())
    for kind in LIKELY:
        if isinstance(record, objectives.load(kind).reads):
            return kind
    what = "no row" if record is None else f"{type(record).__name__.lower()} rows, which no objective learns from yet"
    raise DataError(what, where=path, fix=f"name the task: {', '.join(objectives.kinds())}")


def _answered(path: str, layout: Layout) -> bool:
    """Whether the first of some prompts has a right answer; what cannot be read is taken to have one."""
    with contextlib.suppress(BottegaError):
        found = _first(path, (Posed,), layout)
        return not isinstance(found, Posed) or bool(found.right)
    return True


def _first(path: str, reads: tuple[type, ...], layout: Layout) -> Record | None:
    """The record of the first row of a file, read as one of these."""
    from bottega.data.reader import read_records

    source = Source(path=str(Path(path).absolute()), **layout.model_dump())
    return next((record for _, record in read_records([source], reads)), None)


def _head(task: str) -> Iterator[str]:
    summary = (objectives.load(task).__doc__ or "").split("\n")[0]
    yield f"# {task}: {summary}"
    yield "# A key behind # stands at its default. Every key is here, with what it does"
    yield "#"
    yield "#   bottega preview recipe.yaml    the rows as the model will see them: what carries loss, what does not"
    yield "#   bottega train recipe.yaml"
    yield ""


def _recipe(task: str, model: str | None, data: str | None, layout: Layout) -> Iterator[str]:
    objective = objectives.load(task)
    scratch = task == "causal" and model is None
    yield from _line("name", task, Recipe.model_fields["name"])
    yield from _line("seed", None, Recipe.model_fields["seed"])
    start: dict[str, Any] = {"base": model or "path/to/model"}
    if scratch:
        shape = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6}
        start = {"shape": shape | {"num_attention_heads": 4}, "tokenizer": "tokenizer"}
    yield from _section("model", Model, start)
    if not scratch and objective.head == "language":
        yield from _section("adapter", adapters.load(adapters.DEFAULT), {"rank": 16, "alpha": 32})
    laid_out = layout.model_dump(exclude_defaults=True)
    yield from _section("data", Data, {"train": data or "rows.jsonl", "validation": 0.1, **laid_out})
    unanswered = task == "grpo" and data is not None and not _answered(data, layout)
    needed = UNANSWERED if unanswered else NEEDED.get(task, {})
    yield from _section("objective", objective, {"kind": task, **needed})
    optim: dict[str, Any] = {"optimizer": "muon", "lr": 5e-3, "update_tokens": 16384} if scratch else {"epochs": 3}
    yield from _section("optim", Optim, optim)
    yield from _section("evaluate", Evaluate, {"stop_after": 5})
    yield from _section("save", Save, {"every": 100})


def _section(name: str, section: type[BaseModel], given: dict[str, Any]) -> Iterator[str]:
    """A section with every key: those given as they are, the rest behind # with their defaults."""
    yield ""
    yield f"{name}:"
    for key, field in section.model_fields.items():
        yield from _line(field.alias or key, given.get(key), field, indent="  ")


def _line(key: str, value: Any, field: FieldInfo, indent: str = "") -> Iterator[str]:
    off = value is None
    if off:
        value = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
        value = list(value) if isinstance(value, tuple) else value
    text = f"{indent}{'# ' if off else ''}{key}: {_shown(value)}"
    explained = f"# {field.description}" if field.description else ""
    yield f"{text:{WIDTH}} {explained}".rstrip()


def _shown(value: Any) -> str:
    """A value as YAML in a line; nothing for none."""
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return yaml.safe_dump(value, width=float("inf"), allow_unicode=True).partition("\n")[0]
