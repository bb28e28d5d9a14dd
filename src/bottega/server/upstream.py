"""Models of other servers: requests for them are passed on, as they are but for the name of the model.

For larger traffic, or larger models: vLLM, llama.cpp, another bottega, any server with the same API.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2

import bottega
from bottega.server.errors import SERVER, ApiError
from bottega.server.gate import AZURE_MODEL, AsgiApp, Message, Receive, Scope, Send, answer

# What is passed on.
PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"})

# Headers of an answer that its reader needs.
ANSWER_HEADERS = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "cache-control")

# Seconds until a server must be reached, and between two parts of its answer.
TIMEOUT = httpx2.Timeout(600.0, connect=5.0)


@dataclass(frozen=True)
class Upstream:
    """A model of another server.

    url    of its API, with its version: http://127.0.0.1:8001/v1
    model  what it is called there
    key    what is shown there; servers that need none accept any
    """

    url: str
    model: str
    key: str

    @classmethod
    def parse(cls, name: str, source: str, key: str | None = None) -> Upstream:
        """`URL#MODEL`; without a model, it is called there as here. Raises a RecipeError for what is no URL."""
        url, _, model = source.partition("#")
        try:
            host = httpx2.URL(url).host
        except httpx2.InvalidURL:
            host = ""
        if not host:
            what = f"not the address of a server: {url}"
            raise bottega.RecipeError(what, where=name, fix="write NAME=http://HOST:PORT/v1#MODEL")
        return cls(url.rstrip("/"), model or name, key or "anything")


def is_url(source: str) -> bool:
    """Whether a model is one of another server."""
    return source.startswith(("http://", "https://"))


class PassOn:
    """Middleware that answers requests for models of other servers."""

    def __init__(self, app: AsgiApp, upstreams: Mapping[str, Upstream]) -> None:
        self.app, self.upstreams = app, upstreams
        # Redirects are not followed: the key is meant for this server alone.
        self.client = httpx2.AsyncClient(timeout=TIMEOUT, limits=httpx2.Limits(max_connections=None))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # it lasts until the server ends
            try:
                await self.app(scope, receive, send)
            finally:
                await self.client.aclose()
            return
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await self.app(scope, receive, send)
            return
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        document = _parsed(b"".join(message.get("body", b"") for message in messages))
        name = scope.get(AZURE_MODEL) or (document or {}).get("model")
        # A client that went while it wrote, or wrote too much, is none to ask another server for.
        is_whole = messages[-1]["type"] == "http.request"
        if is_whole and document is not None and isinstance(name, str) and name in self.upstreams:
            await self._pass_on(scope["path"], name, document, receive, send)
            return

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, again, send)

    async def _pass_on(self, path: str, name: str, document: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer as the other server does; it is told when the client goes."""
        upstream, begun = self.upstreams[name], False

        async def forward(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_at_disconnect, receive, tasks.cancel_scope)
                await self._exchange(path, upstream, {**document, "model": upstream.model}, forward)
                tasks.cancel_scope.cancel()
        except* httpx2.HTTPError as group:
            if begun:  # the client sees that its stream was cut
                raise
            error = group.exceptions[0]
            message = f"The server of the model '{name}' does not answer: {type(error).__name__}."
            await answer(ApiError(502, message, code="upstream_error", type=SERVER), send)

    async def _exchange(self, path: str, upstream: Upstream, document: Mapping[str, Any], send: Send) -> None:
        headers = {"authorization": f"Bearer {upstream.key}", "content-type": "application/json"}
        # As ASCII: half a surrogate pair can be written so, and is the other server's to refuse.
        body = json.dumps(document).encode()
        url = upstream.url + path.removeprefix("/v1")
        async with self.client.stream("POST", url, content=body, headers=headers) as response:
            kept = [
                (name.encode(), response.headers[name].encode()) for name in ANSWER_HEADERS if name in response.headers
            ]
            await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
            async for part in response.aiter_bytes():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def _cancel_at_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _parsed(body: bytes) -> dict[str, Any] | None:
    """The document of a body; None for what is none, which the routes refuse."""
    try:
        document = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
