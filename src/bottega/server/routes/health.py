"""What programs that watch a server ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

import bottega

router = APIRouter()

# (name in Prometheus, type, help, field of the statistics)
METRICS = (
    ("requests_total", "counter", "Requests that were accepted.", "requests"),
    ("requests_refused_total", "counter", "Requests that were refused because too many waited.", "refused"),
    ("requests_failed_total", "counter", "Requests that ended with an error of the model.", "failed"),
    ("prompt_tokens_total", "counter", "Tokens of prompts.", "prompt_tokens"),
    ("prompt_tokens_cached_total", "counter", "Tokens of prompts that were in the prefix cache.", "cached_tokens"),
    ("generated_tokens_total", "counter", "Tokens that were generated.", "generated_tokens"),
    ("forwards_total", "counter", "Forwards of the model.", "steps"),
    ("preempted_total", "counter", "Continuations put back into the queue for want of memory.", "preempted"),
    ("running", "gauge", "Continuations that are computed now.", "running"),
    ("waiting", "gauge", "Continuations that wait.", "waiting"),
)


@router.get("/healthz")
async def healthz() -> Any:
    """The server answers."""
    return {"status": "ok"}


@router.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """Counts of every language model in memory, as Prometheus reads them."""
    deployment: bottega.Deployment = request.app.state.deployment
    text = "\n".join(_lines(deployment)) + "\n"
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _lines(deployment: bottega.Deployment) -> Iterator[str]:
    stats = deployment.stats()
    for name, kind, words, field in METRICS:
        yield f"# HELP bottega_{name} {words}"
        yield f"# TYPE bottega_{name} {kind}"
        for model, counts in stats.items():
            label = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            yield f'bottega_{name}{{model="{label}"}} {getattr(counts, field)}'
