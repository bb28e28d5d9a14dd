"""Models: those that can be used, and one made ready to be chatted with."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from bottega.studio.calls import in_thread, workshop_of

router = APIRouter(prefix="/models")


class ModelName(BaseModel):
    """A run, a folder or a hub id."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1)


@router.get("")
async def list_models(request: Request) -> Any:
    """Models that can be used and tuned: the runs that have ended, and what the server was started with."""
    workshop = workshop_of(request)
    return await in_thread(lambda: list(workshop.models()))


@router.post("/open")
async def open_model(request: Request, body: ModelName) -> Any:
    """Load a language model to chat with; its name for the API of the server."""
    workshop = workshop_of(request)

    def work() -> dict[str, Any]:
        return {"model": body.model, "limit": workshop.open_model(body.model).model.limit}

    return await in_thread(work)


@router.post("/close")
async def close_model(request: Request, body: ModelName) -> Any:
    """Let a model go that was opened to chat with."""
    await in_thread(lambda: workshop_of(request).close_model(body.model))
    return {}
