"""Routes of our own: classifiers, regressions, reward models, taggers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

import bottega
from bottega.server.generation import in_thread
from bottega.server.routes.embeddings import Texts, check_head
from bottega.server.wire import WireModel, model_of

router = APIRouter()


class TextsRequest(WireModel):
    """Texts for a model with labels."""

    input: str | Texts
    model: str | None = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


@router.post("/v1/classify")
async def classify(request: Request, body: TextsRequest) -> Any:
    """The label of each text with the probabilities of all; of a regression or a reward model a number."""
    name, deployment = model_of(request, body.model), request.app.state.deployment
    await check_head(deployment, name, ("sequence",), "classify texts")
    found = await in_thread(
        lambda: deployment.compute(name, "sequence", lambda model: _labels(model, body.texts)), "input"
    )
    data = [{"object": "classification", "index": index, **one} for index, one in enumerate(found)]
    return {"object": "list", "model": name, "data": data}


def _labels(model: Any, texts: list[str]) -> list[dict[str, Any]]:
    if model.objective.prediction not in ("class", "classes"):
        return [{"value": value} for value in model.values(texts)]
    return [
        {"label": one.label, "labels": list(one.labels), "probabilities": dict(one.probabilities), "cut": one.cut}
        for one in model.classify(texts)
    ]


@router.post("/v1/tag")
async def tag(request: Request, body: TextsRequest) -> Any:
    """The entities in each text, with their places in characters."""
    name, deployment = model_of(request, body.model), request.app.state.deployment
    await check_head(deployment, name, ("token",), "tag words")
    found: list[list[bottega.Entity]] = await in_thread(
        lambda: deployment.compute(name, "token", lambda model: model.tag(body.texts)), "input"
    )
    data = [
        {"object": "tagged_text", "index": index, "entities": [_entity(text, one) for one in entities]}
        for index, (text, entities) in enumerate(zip(body.texts, found, strict=True))
    ]
    return {"object": "list", "model": name, "data": data}


def _entity(text: str, entity: bottega.Entity) -> dict[str, Any]:
    words = text[entity.start : entity.stop]
    return {"start": entity.start, "stop": entity.stop, "label": entity.label, "text": words}
