"""From the thread that computes into the event loop."""

from __future__ import annotations

import asyncio

import pytest
from serving import Running

import bottega
from bottega.server.errors import ApiError
from bottega.server.generation import Generation, in_thread


def test_errors_of_a_thread_name_the_field() -> None:
    def fail() -> None:
        raise bottega.DataError("wrong", where="here")

    with pytest.raises(ApiError, match="here: wrong") as raised:
        asyncio.run(in_thread(fail, "messages"))
    assert raised.value.param == "messages"
    assert asyncio.run(in_thread(lambda: 5)) == 5


def test_an_error_of_the_model_ends_all_its_continuations(server: Running) -> None:
    """And those of the other prompts are stopped."""

    async def read() -> None:
        model, queue = server.deployment.language("base"), asyncio.Queue[tuple[int, list[bottega.Update]]]()
        (submitted,) = model.submit(["the"], bottega.Sampling(tokens=500), lambda *_: None)
        generation = Generation([[1]], [submitted[0]], queue)
        await queue.put((0, [bottega.Diverged("not finite")]))
        with pytest.raises(ApiError, match="not finite"):
            async for _ in generation.updates():
                pass
        assert submitted[0].ended

    asyncio.run(read())
