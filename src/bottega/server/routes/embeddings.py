"""Embeddings."""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request
from pydantic import Field

import bottega
from bottega.server.errors import ApiError, no_such_model, unsupported
from bottega.server.generation import in_thread
from bottega.server.wire import WireModel, model_of

router = APIRouter()

Texts = Annotated[list[str], Field(min_length=1, max_length=2048)]


class EmbeddingRequest(WireModel):
    """The body of a request for embeddings."""

    refused: ClassVar[Collection[str]] = ("dimensions",)

    input: str | Texts | list[Any]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"


@router.post("/v1/embeddings")
async def create_embeddings(request: Request, body: EmbeddingRequest) -> Any:
    """A vector of length 1 for each text."""
    body.check_refused()
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts or not all(isinstance(text, str) for text in texts):
        raise unsupported("input", "it is a text, or a list of texts")
    name = model_of(request, body.model)
    await check_head(request.app.state.deployment, name, ("embedding",), "embed texts")
    deployment: bottega.Deployment = request.app.state.deployment
    vectors, tokens = await in_thread(
        lambda: deployment.compute(name, "embedding", lambda model: model.embed_counted(texts)), "input"
    )
    if body.encoding_format == "base64":
        data: list[Any] = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    else:
        data = vectors.tolist()
    return {
        "object": "list",
        "model": name,
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(data)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def check_head(deployment: bottega.Deployment, name: str, heads: Collection[str], use: str) -> str:
    """The head of a model; an ApiError if there is no such model, or if it cannot be used so."""
    if name not in deployment.names:
        raise no_such_model(name)
    head = await in_thread(lambda: deployment.head(name), "model")
    if head not in heads:
        message = f"The model `{name}` does not {use}."
        raise ApiError(400, message, param="model", code="unsupported_model")
    return head
