"""What all routes of the studio need: the workshop of the application, and work off the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import yaml
from fastapi import Request
from starlette.concurrency import run_in_threadpool

import bottega
from bottega.studio.workshop import Workshop

T = TypeVar("T")


def workshop_of(request: Request) -> Workshop:
    """The workshop that the application was made for."""
    return cast(Workshop, request.app.state.workshop)


def parse_yaml(text: str) -> dict[str, Any]:
    """The keys and values of a recipe; a RecipeError if it is no YAML, or something else."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = f"line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else "recipe"
        what = f"invalid YAML: {getattr(error, 'problem', None) or 'it cannot be read'}"
        raise bottega.RecipeError(what, where=where, fix="close what is open, and indent with spaces") from None
    if not isinstance(document, dict):
        raise bottega.RecipeError("not a recipe", where="recipe", fix="write keys and values, as the form does")
    return document


async def in_thread(work: Callable[[], T]) -> T:
    """The result of work that reads files or computes: on the event loop it would hold up everyone."""
    return await run_in_threadpool(work)
