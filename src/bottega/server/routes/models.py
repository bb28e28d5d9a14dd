"""The models that are served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

import bottega
from bottega.server.errors import ApiError, no_such_model
from bottega.server.generation import in_thread

router = APIRouter()


def model_document(name: str, created: float) -> dict[str, Any]:
    """A model, as the API describes it."""
    return {"id": name, "object": "model", "created": int(created), "owned_by": "bottega"}


def _names(request: Request) -> dict[str, float]:
    """Every model that can be asked for, and when it came."""
    return {**request.app.state.deployment.names, **request.app.state.upstreams}


@router.get("/v1/models")
async def list_models(request: Request) -> Any:
    """All models, the newest first."""
    newest = sorted(_names(request).items(), key=lambda pair: -pair[1])
    return {"object": "list", "data": [model_document(*pair) for pair in newest]}


@router.get("/v1/models/{model:path}")
async def retrieve_model(request: Request, model: str) -> Any:
    """One model."""
    names = _names(request)
    if model not in names:
        raise no_such_model(model)
    return model_document(model, names[model])


class Switch(BaseModel):
    """What a model is to answer with: another model that is served."""

    model_config = ConfigDict(extra="forbid")
    model: str


@router.post("/v1/models/{model:path}")
async def switch_model(request: Request, model: str, switch: Switch) -> Any:
    """Let a name answer with another model that is served, of the same base, from the next request on."""
    deployment: bottega.Deployment = request.app.state.deployment
    for name in (model, switch.model):
        if name not in deployment.names:
            raise no_such_model(name)
    await in_thread(lambda: deployment.switch(model, switch.model), "model")
    return model_document(model, deployment.names[model])


@router.delete("/v1/models/{model:path}")
async def delete_model(request: Request, model: str) -> Any:
    """Forget a tuned model; those that the server was started with stay."""
    deployment: bottega.Deployment = request.app.state.deployment
    if model not in _names(request):
        raise no_such_model(model)
    backend = request.app.state.backend
    if backend is None or not await in_thread(lambda: backend.jobs.forget(model)):
        message = f"The model `{model}` was not tuned here: stop the server, and start it without this model."
        raise ApiError(403, message, code="model_not_deletable")
    await in_thread(lambda: deployment.remove(model))
    return {"id": model, "object": "model", "deleted": True}
