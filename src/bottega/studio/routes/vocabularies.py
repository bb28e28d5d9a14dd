"""Tokenizers and token embeddings, opened up."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

import bottega
from bottega.studio.calls import in_thread, workshop_of
from bottega.studio.kept import Kept
from bottega.studio.names import check_name

router = APIRouter()

# Tokenizers and matrices of embeddings that are kept in memory.
VOCABULARIES: Kept[bottega.Vocabulary] = Kept(lambda source: bottega.Vocabulary(source), 8)
VECTORS: Kept[bottega.TokenVectors] = Kept(lambda source: bottega.TokenVectors(source), 3)

Word = Field(min_length=1, max_length=200)


class TextOf(BaseModel):
    """A text for a tokenizer."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1)
    text: str = Field(max_length=100_000)


class TokenizerToTrain(BaseModel):
    """A tokenizer of one's own, from the texts of data sets."""

    model_config = ConfigDict(extra="forbid")

    name: str
    data: list[str] = Field(min_length=1)
    size: int = Field(ge=300, le=262_144)


class Words(BaseModel):
    """One word for its neighbours, two for an axis, three for an analogy a − b + c."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1)
    words: list[str] = Field(min_length=1, max_length=3)


class ModelPair(BaseModel):
    """A model, and for the drift another one."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1)
    other: str | None = None


def _pairs(found: Any) -> list[dict[str, Any]]:
    return [{**token.document(), "value": value} for token, value in found]


@router.post("/tokenizers/encode")
async def encode(request: Request, body: TextOf) -> Any:
    """A text as tokens."""
    source = workshop_of(request).model_source(body.model)
    return await in_thread(lambda: VOCABULARIES.get(source).describe(body.text))


@router.post("/tokenizers/search")
async def search(request: Request, body: TextOf) -> Any:
    """The tokens that contain a text."""
    source = workshop_of(request).model_source(body.model)

    def work() -> dict[str, Any]:
        tokens, count = VOCABULARIES.get(source).search(body.text)
        return {"tokens": [token.document() for token in tokens], "count": count}

    return await in_thread(work)


@router.post("/tokenizers/train")
async def train_tokenizer(request: Request, body: TokenizerToTrain) -> Any:
    """Train a tokenizer: a task."""
    workshop = workshop_of(request)
    out = workshop.made / check_name(body.name, "a tokenizer")
    if out.exists():
        raise bottega.DataError("there is something of this name already", where=body.name, fix="choose another name")
    files = await in_thread(lambda: [str(workshop.data.rows_path(name)) for name in body.data])
    arguments = {"files": files, "size": body.size, "out": str(out)}
    return {"task": workshop.tasks.submit("tokenizer", arguments, ("tokenizer", body.name)).id, "folder": str(out)}


@router.post("/embeddings/words")
async def words(request: Request, body: Words) -> Any:
    """Neighbours of a word, an axis between two, or an analogy of three."""
    source = workshop_of(request).model_source(body.model)

    def work() -> dict[str, Any]:
        vectors = VECTORS.get(source)
        if len(body.words) == 1:
            return {"kind": "neighbours", "nearest": _pairs(vectors.neighbours(body.words[0]))}
        if len(body.words) == 2:
            low, high = vectors.axis(body.words[0], body.words[1])
            return {"kind": "axis", "low": _pairs(low), "high": _pairs(high)}
        return {"kind": "analogy", "nearest": _pairs(vectors.analogy(body.words[0], body.words[1], body.words[2]))}

    return await in_thread(work)


@router.post("/embeddings/project")
async def project(request: Request, body: ModelPair) -> Any:
    """The principal components of the embeddings."""
    source = workshop_of(request).model_source(body.model)
    return await in_thread(lambda: VECTORS.get(source).project())


@router.post("/embeddings/drift")
async def drift(request: Request, body: ModelPair) -> Any:
    """Which tokens another model has elsewhere."""
    workshop = workshop_of(request)
    sources = [workshop.model_source(name) for name in (body.model, body.other or "")]

    def work() -> dict[str, Any]:
        found = VECTORS.get(sources[0]).drift(VECTORS.get(sources[1]))
        return {**found, "moved": _pairs(found["moved"])}

    return await in_thread(work)
