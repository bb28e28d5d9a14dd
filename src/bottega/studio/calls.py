"""What all routes of the studio need: the workshop of the application, and work off the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from bottega.studio.workshop import Workshop

T = TypeVar("T")


def workshop_of(request: Request) -> Workshop:
    """The workshop that the application was made for."""
    return cast(Workshop, request.app.state.workshop)


async def in_thread(work: Callable[[], T]) -> T:
    """The result of work that reads files or computes: on the event loop it would hold up everyone."""
    return await run_in_threadpool(work)
