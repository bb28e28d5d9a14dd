"""Labelling over HTTP: pairs of answers, choices, and what follows from them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

import bottega
from bottega.studio.calls import in_thread, workshop_of
from bottega.studio.labels import LabelChoice
from bottega.studio.names import derived_name

router = APIRouter(prefix="/labels")


class NewSession(BaseModel):
    """Pairs to be written: to the prompts of a data set, by one or two models.

    models   one model answers twice, at a temperature; two answer once each
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    models: list[str] = Field(min_length=1, max_length=2)
    data: str
    version: int | None = None
    count: int = Field(20, ge=1, le=1000)
    tokens: int = Field(128, ge=1, le=2048)
    temperature: float = Field(0.8, ge=0, le=3)
    seed: int = 0


class Said(BaseModel):
    """What a person says of a pair, by the side it was shown on."""

    model_config = ConfigDict(extra="forbid")

    pair: int
    rater: str = Field(min_length=1, max_length=60)
    said: Literal["left", "right", "tie", "bad", "skip"]
    swapped: bool
    edited: str | None = Field(None, max_length=100_000)


class Rater(BaseModel):
    """Somebody who chooses."""

    model_config = ConfigDict(extra="forbid")

    rater: str = Field(min_length=1, max_length=60)


class ArenaChoice(BaseModel):
    """A choice in the arena: two answers that were written in a conversation."""

    model_config = ConfigDict(extra="forbid")

    models: tuple[str, str]
    prompt: str
    answers: tuple[str, str]
    said: Literal["left", "right", "tie", "bad"]
    rater: str = Field(min_length=1, max_length=60)
    swapped: bool


@router.get("")
async def list_sessions(request: Request) -> Any:
    """All sessions with what was found so far."""
    labels = workshop_of(request).labels
    return await in_thread(lambda: [labels.summary(name) for name in labels.names()])


@router.post("")
async def start_session(request: Request, body: NewSession) -> Any:
    """Let models write the answers of a new session: a task."""
    workshop = workshop_of(request)
    # Before anything is written: the answers take minutes.
    workshop.labels.check_new(body.name)
    sources = [workshop.model_source(model) for model in body.models]
    rows = await in_thread(lambda: workshop.data.source(body.data, body.version))
    arguments = {"name": body.name, "sources": sources, "models": body.models, **rows}
    more = body.model_dump(include={"count", "tokens", "temperature", "seed"})
    folder = {"folder": str(workshop.labels.folder)}
    return {"task": workshop.tasks.submit("answers", {**arguments, **more, **folder}, ("labels", body.name)).id}


@router.get("/{name}")
async def get_session(request: Request, name: str, rater: str = "me") -> Any:
    """The next pair for a person, and what was found so far."""
    labels = workshop_of(request).labels
    return await in_thread(lambda: {"next": labels.next_pair(name, rater), "summary": labels.summary(name)})


@router.post("/{name}/choices")
async def choose(request: Request, name: str, body: Said) -> Any:
    """Keep a choice; answers with the next pair."""
    labels = workshop_of(request).labels
    choice = LabelChoice(body.pair, body.rater, _verdict(body.said, body.swapped), body.swapped, body.edited)

    def work() -> dict[str, Any]:
        labels.choose(name, choice)
        return {"next": labels.next_pair(name, body.rater), "summary": labels.summary(name)}

    return await in_thread(work)


def _verdict(said: str, swapped: bool) -> Any:
    """Which model was chosen, from the side that was."""
    return {"left": "second" if swapped else "first", "right": "first" if swapped else "second"}.get(said, said)


@router.post("/{name}/undo")
async def undo(request: Request, name: str, body: Rater) -> Any:
    """Take a person's last choice back; answers with its pair."""
    labels = workshop_of(request).labels

    def work() -> dict[str, Any]:
        labels.undo(name, body.rater)
        return {"next": labels.next_pair(name, body.rater), "summary": labels.summary(name)}

    return await in_thread(work)


@router.post("/{name}/data")
async def write_data(request: Request, name: str) -> Any:
    """A preference data set of what was chosen."""
    workshop = workshop_of(request)

    def work() -> dict[str, Any]:
        rows = [(f"pair {number + 1}", row) for number, row in enumerate(workshop.labels.preferences(name))]
        if not rows:
            fix = "choose between some more answers"
            raise bottega.DataError("no pair has an answer that is preferred", where=name, fix=fix)
        made = derived_name(name, "preferences")
        version = workshop.data.write(made, rows, ("labels", {"session": name}), _say_nothing)
        return {"name": made, "version": version.number, "rows": version.rows}

    return await in_thread(work)


def _say_nothing(message: str, done: int = 0, total: int | None = None) -> None:
    """For writing that takes no time."""


@router.post("/arena/compare")
async def compare(request: Request, body: ArenaChoice) -> Any:
    """Keep a choice between two answers of a conversation; the session is that of the two models."""
    labels = workshop_of(request).labels
    name = arena_name(body.models)

    def work() -> dict[str, Any]:
        return labels.add_pair(
            name,
            body.models,
            {"prompt": body.prompt, "first": body.answers[0], "second": body.answers[1]},
            lambda pair: LabelChoice(pair, body.rater, _verdict(body.said, body.swapped), body.swapped),
        )

    return await in_thread(work)


def arena_name(models: tuple[str, str]) -> str:
    """The name of the session in which two models are compared: of their names what fits, and a hash of the whole."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(Path(name).name for name in models)).strip("-")[:40]
    digest = hashlib.blake2b("\0".join(models).encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"arena-{readable}-{digest}"
