"""Streams of events: an error before the first is an answer, one after it an event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bottega.server import sse
from bottega.server.errors import ApiError


async def events(*given: bytes | Exception) -> AsyncIterator[bytes]:
    for one in given:
        if isinstance(one, Exception):
            raise one
        yield one


async def read(source: AsyncIterator[bytes]) -> list[bytes]:
    response = await sse.stream(source)
    return [part async for part in response.body_iterator if isinstance(part, bytes)]


def test_an_event_holds_its_document_on_one_line() -> None:
    assert sse.event({"text": "è\n"}) == 'data: {"text": "è\\n"}\n\n'.encode()
    assert sse.event({}, "done") == b"event: done\ndata: {}\n\n"


def test_errors() -> None:
    with pytest.raises(ApiError):
        asyncio.run(read(events(ApiError(400, "wrong"))))
    first, error = asyncio.run(read(events(b"a", ApiError(400, "wrong"))))
    assert (first, b'"wrong"' in error) == (b"a", True)
    found = list[bytes]()

    async def collect() -> None:
        response = await sse.stream(events(b"a", ZeroDivisionError("a secret")))
        found.extend([part async for part in response.body_iterator if isinstance(part, bytes)])

    with pytest.raises(ZeroDivisionError):
        asyncio.run(collect())
