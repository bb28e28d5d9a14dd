"""Answers as streams of events, which begin only when there is something to say: an error before is a plain answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from bottega.server.errors import SERVER, ApiError

DONE = b"data: [DONE]\n\n"


def event(document: dict[str, Any], name: str | None = None) -> bytes:
    """One event with a JSON document."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


async def stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """A response with these events; an error that is raised before the first is raised here."""
    first = await anext(events, b"")
    return StreamingResponse(
        _from(first, events), media_type="text/event-stream", headers={"cache-control": "no-cache"}
    )


async def _from(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for one in events:
            yield one
    except ApiError as error:
        yield error.event()
    except Exception as error:  # of any kind: the status is sent, so that nobody else can tell the client
        yield ApiError(500, f"The server failed: {type(error).__name__}.", type=SERVER).event()
        raise
    finally:
        # Closed now and not by the garbage collector: it stops the generation.
        if hasattr(events, "aclose"):
            await events.aclose()
