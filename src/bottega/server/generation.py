"""From a request to the updates of its continuations, in the event loop of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import Request

import bottega
from bottega.server.errors import ApiError, from_bottega, no_such_model

T = TypeVar("T")

# How the API calls the reasons for which a continuation ends.
FINISH_REASONS = {"end": "stop", "stop": "stop", "length": "length"}


@dataclass
class Generation:
    """The continuations of some prompts, while they are generated.

    prompts  the tokens of each
    """

    prompts: list[list[int]]
    tickets: list[bottega.GenerationTicket]
    queue: asyncio.Queue[tuple[int, list[bottega.Update]]]

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    async def updates(self) -> AsyncIterator[tuple[int, bottega.ScoredPiece | bottega.PromptScores]]:
        """(number of the prompt, what happened), until all have ended; stops generating if it is left before."""
        left = len(self.tickets)
        try:
            while left:
                number, updates = await self.queue.get()
                for update in updates:
                    if isinstance(update, bottega.BottegaError):
                        raise from_bottega(update)
                    if isinstance(update, bottega.Done):
                        left -= 1
                    else:
                        yield number, update
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop generating."""
        for ticket in self.tickets:
            ticket.cancel()


async def in_thread(function: Callable[[], T], param: str | None = None) -> T:
    """What a function returns that may take long; its errors are about the field `param`."""
    try:
        return await anyio.to_thread.run_sync(function)
    except bottega.BottegaError as error:
        raise from_bottega(error, param) from None


async def find_language_model(deployment: bottega.Deployment, name: str) -> bottega.ServedLanguageModel:
    """The language model of a name; 404 if none has it, 400 if it is another kind of model."""
    if name not in deployment.names:
        raise no_such_model(name)
    head = await in_thread(lambda: deployment.head(name), "model")
    if head != "language":
        what = {"sequence": "/v1/classify", "token": "/v1/tag", "embedding": "/v1/embeddings"}.get(head)
        message = f"The model `{name}` does not generate text{f'; ask {what}' if what else ''}."
        raise ApiError(400, message, param="model", code="unsupported_model")
    return await in_thread(lambda: deployment.language(name), "model")


async def begin(
    model: bottega.ServedLanguageModel,
    prompts: Sequence[Any],
    settings: bottega.Sampling,
    *,
    param: str,
    options: Mapping[str, Any],
) -> Generation:
    """Submit prompts; what is wrong with them is the fault of the field `param`. `options`: see `submit`."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, list[bottega.Update]]]()

    def deliver(number: int, updates: list[bottega.Update]) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, (number, updates))

    submitted = await in_thread(lambda: model.submit(prompts, settings, deliver, **options), param)
    return Generation([ids for _, ids in submitted], [ticket for ticket, _ in submitted], queue)


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """The result of some work, which is given up when the client goes away."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
        return await task
    except asyncio.CancelledError:
        # Nobody reads it.
        raise ApiError(499, "The client closed the request.") from None
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
