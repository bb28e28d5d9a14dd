"""The fields of a recipe as data, from which a form is drawn: `bottega.recipe_form(objective)`."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bottega import adapters, objectives
from bottega.errors import RecipeError
from bottega.recipe.one_of import OneOf
from bottega.recipe.schema import Recipe
from bottega.suggestions import suggest_name

# Types of values by their name in the form. Everything else is written as JSON.
SIMPLE_TYPES = {str: "text", int: "integer", float: "number", bool: "boolean"}

# Limits in an annotation, by what the form calls them. It has no word for limits that are excluded themselves.
LIMITS = {"ge": "minimum", "le": "maximum"}


def recipe_form(objective: str, adapter: str | None = None) -> list[dict[str, Any]]:
    """Every key of a recipe with this objective and adapter, in the order in which a recipe has them.

    A key has `key` (`optim.lr`), `type` (text, integer, number, boolean, choice, json), `choices`, `default`,
    `required`, `description`, and `minimum` and `maximum` where it has such.

    Raises a RecipeError for an unknown objective or adapter.
    """
    for kind, kinds in ((objective, objectives.kinds()), (adapter, [None, *adapters.kinds()])):
        if kind not in kinds:
            fix = suggest_name(str(kind), [name for name in kinds if name])
            raise RecipeError(f"unknown kind {kind!r}", where="recipe", fix=fix)
    own_fields = {
        "objective": objectives.load(objective),
        "adapter": None if adapter is None else adapters.load(adapter),
    }
    fields: list[dict[str, Any]] = []
    for name, field in Recipe.model_fields.items():
        section = own_fields[name] if name in own_fields else _section(field)
        if section is not None:
            fields += [_describe(f"{name}.{key}", inner) for key, inner in _fields(section) if key != "kind"]
        elif name not in own_fields:
            fields.append(_describe(name, field))
    return fields


def _fields(section: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    yield from ((field.alias or name, field) for name, field in section.model_fields.items())


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a key of the recipe holds; None for a value or a list of sections."""
    candidates = [field.annotation, *(get_args(field.annotation) if _is_union(field.annotation) else ())]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _describe(key: str, field: FieldInfo) -> dict[str, Any]:
    kind, choices = _kind(field.annotation)
    one_of = next((item for item in field.metadata if isinstance(item, OneOf)), None)
    if one_of is not None:
        kind, choices = "choice", list(one_of.names())
    required = field.default is PydanticUndefined and field.default_factory is None
    default = None if required else field.get_default(call_default_factory=True, validated_data={})
    limits = {
        name: getattr(item, limit)
        for item in (*field.metadata, *_metadata(field.annotation))
        for limit, name in LIMITS.items()
        if getattr(item, limit, None) is not None
    }
    description = field.description or ""
    plain = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
    document = {"key": key, "type": kind, "choices": choices, "default": plain, "required": required}
    return {**document, "description": description, **limits}


def _kind(annotation: Any) -> tuple[str, list[str]]:
    """(type, choices) of a value: the first of several that it may have, but for None."""
    if get_origin(annotation) is typing.Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is typing.Literal:
        return "choice", [str(choice) for choice in get_args(annotation)]
    if _is_union(annotation):
        kinds = [_kind(argument) for argument in get_args(annotation) if argument is not types.NoneType]
        return kinds[0] if len(kinds) == 1 else ("json", [])
    return SIMPLE_TYPES.get(annotation, "json"), []


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (typing.Union, types.UnionType)


def _metadata(annotation: Any) -> Iterator[Any]:
    """What an annotation, or one of its alternatives, is annotated with."""
    if get_origin(annotation) is typing.Annotated:
        yield from get_args(annotation)[1:]
    elif _is_union(annotation):
        for argument in get_args(annotation):
            yield from _metadata(argument)
