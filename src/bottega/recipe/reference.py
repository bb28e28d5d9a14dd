"""The reference of the recipe as Markdown, generated from its sections: every key with its values and default."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bottega import adapters, objectives
from bottega.metrics import answers
from bottega.objectives import rewards
from bottega.recipe.one_of import OneOf
from bottega.recipe.schema import Recipe, Source

HEAD = """# The recipe

Every key, its values and its default. This page is generated from the code. Relative paths resolve against the
recipe's folder; on the command line, `section.key=value` overrides a key.
"""


def objective_kinds() -> list[str]:
    """The objectives that a recipe can name."""
    return objectives.kinds()


def recipe_reference() -> str:
    """Every section, objective and reward of a recipe, as Markdown tables."""
    # These two have fields of their own for each kind.
    by_kind = ("adapter", "objective")
    sections = {name: model for name, field in Recipe.model_fields.items() if (model := _section(field))}
    parts = [HEAD, *_table("Top level", Recipe, skip=[*sections, *by_kind])]
    for name in Recipe.model_fields:
        if name == "adapter":
            parts += _table("`adapter`", adapters.Adapter, skip=["kind"])
            for kind in adapters.kinds():
                parts += _table(f"`adapter: {{kind: {kind}}}`", adapters.load(kind))
        elif name in sections and name not in by_kind:
            parts += _table(f"`{name}`", sections[name])
        if name == "data":
            parts += _table("A `source`", Source)
    for kind in objectives.kinds():
        parts += _table(f"`objective: {{kind: {kind}}}`", objectives.load(kind), skip=["kind"])
    parts += _table("A `reward`", rewards.RewardFunction, skip=["kind"])
    parts += [
        f"\nIn short a name: of a metric ({', '.join(answers.metric_names())}), or of a kind that needs no option."
    ]
    for kind in rewards.kinds():
        parts += _table(f"A reward `{{kind: {kind}}}`", rewards.load(kind), skip=["kind", "weight"])
    return "\n".join(parts)


def _table(title: str, model: type[BaseModel], skip: list[str] | None = None) -> Iterator[str]:
    yield f"\n## {title}\n"
    if model.__doc__:
        yield " ".join(model.__doc__.split("\n\n")[0].split()) + "\n"
    fields = {name: field for name, field in model.model_fields.items() if name not in (skip or [])}
    if fields:
        yield "| key | values | default | |\n|---|---|---|---|"
    for name, field in fields.items():
        default = "required" if field.default is PydanticUndefined and not field.default_factory else _default(field)
        choices = next((item for item in field.metadata if isinstance(item, OneOf)), None)
        values = _values(field.annotation) if choices is None else _quote_all(choices.names())
        yield f"| `{field.alias or name}` | {values} | {default} | {field.description or ''} |"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value is None or value == {} else f"`{list(value) if isinstance(value, tuple) else value}`"


def _values(annotation: Any) -> str:
    """The values that an annotation allows, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _values(arguments[0])
    if origin is typing.Literal:
        return _quote_all(arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_values(argument) for argument in arguments if argument is not type(None)))
    if origin in (list, tuple):
        return f"list of {_values(arguments[0])}"
    if origin is dict:
        return "keys and values"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        # The heading of its table is the word users know, not the name of the class.
        word = "reward" if annotation is rewards.RewardFunction else annotation.__name__.lower()
        return f"[{word}](#a-{word})"
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}[annotation]


def _quote_all(values: Sequence[Any]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    candidates = [field.annotation, *get_args(field.annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
