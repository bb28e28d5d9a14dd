"""Models opened up: what they compute for a text."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

import bottega
from bottega.studio.calls import in_thread, workshop_of
from bottega.studio.kept import Kept
from bottega.studio.standalone import render_page
from bottega.studio.workshop import Workshop

router = APIRouter(prefix="/explain")

# Models that are kept in memory, in float32, and explanations whose attention can be asked for.
MAX_MODELS, MAX_EXPLANATIONS = 2, 8


class ExplainRequest(BaseModel):
    """A text to explain.

    model    a run, a folder or a hub id; `beside`: another one to compare with
    written  tokens after the text, as ids
    position where the lens reads; by default the last
    """

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1)
    text: str = Field(max_length=20_000)
    beside: str | None = None
    written: list[int] = Field(default=[], max_length=256)
    position: int | None = None


class Explainers:
    """The models that were explained last, and what was found; one text is computed at a time."""

    def __init__(self) -> None:
        self._computing = threading.Lock()
        self._models: Kept[bottega.Explainer] = Kept(lambda source: bottega.Explainer(source), MAX_MODELS)
        self._found = OrderedDict[str, bottega.Explanation]()

    def explain(self, workshop: Workshop, question: ExplainRequest) -> tuple[str, bottega.Explanation]:
        """(an id by which it is found again, the explanation)."""
        with self._computing:
            model = self._models.get(workshop.model_source(question.model))
            other = None if question.beside is None else self._models.get(workshop.model_source(question.beside))
            id = secrets.token_hex(8)
            self._found[id] = bottega.explain_with(model, question.text, other, question.written)
            while len(self._found) > MAX_EXPLANATIONS:
                self._found.popitem(last=False)
            return id, self._found[id]

    def find(self, id: str) -> bottega.Explanation:
        """What was found before; a RunError if that is too long ago."""
        with self._computing:
            if id not in self._found:
                raise bottega.RunError("this explanation is gone", where=id, fix="explain the text again")
            return self._found[id]


def _explainers(request: Request) -> Explainers:
    state = request.app.state
    if not hasattr(state, "explainers"):
        state.explainers = Explainers()
    found: Explainers = state.explainers
    return found


@router.post("")
async def explain(request: Request, body: ExplainRequest) -> Any:
    """What a model computes for a text; its attention is asked for a layer at a time."""

    def work() -> dict[str, Any]:
        id, found = _explainers(request).explain(workshop_of(request), body)
        return {"id": id, "document": found.document(body.position)}

    return await in_thread(work)


@router.post("/page")
async def save_page(request: Request, body: ExplainRequest) -> HTMLResponse:
    """The same as a page of its own."""
    return HTMLResponse(
        await in_thread(lambda: render_page(_explainers(request).explain(workshop_of(request), body)[1]))
    )


@router.get("/{id}/token")
async def token_near(request: Request, id: str, logit: float, position: int | None = None) -> Any:
    """A token that the document does not name, by about its logit: a draw may fall on any."""
    return await in_thread(lambda: _explainers(request).find(id).token_near(logit, position).document())


@router.get("/{id}/{stack}/{layer}")
async def attention(
    request: Request, id: str, stack: int, layer: int, other: bool = False, cross: bool = False
) -> Response:
    """The attention of all heads of a layer, a byte a weight; the header `x-shape` has their number and sides."""

    def work() -> tuple[list[int], bytes]:
        try:
            return _explainers(request).find(id).attention(stack, layer, other=other, cross=cross)
        except IndexError:
            raise bottega.RunError("no such layer", where=str(layer), fix="ask for one that it has") from None

    shape, weights = await in_thread(work)
    return Response(weights, media_type="application/octet-stream", headers={"x-shape": ",".join(map(str, shape))})
