"""What every request passes before a route sees it: its host, its origin, its key, the size of its body."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from bottega.server.errors import DO_NOT_RETRY, INVALID, RATE, ApiError
from bottega.server.keys import KeyRing

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

# Names under which a server on this machine is reached.
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "testserver"})

# Paths that say nothing about models, and are asked for by programs without a key.
OPEN_PATHS = frozenset({"/healthz"})

# The pages of the studio, which hold no data, and their API, which does.
STUDIO, STUDIO_API = "/studio", "/studio/api/"

# What fine-tuning needs.
TRAINING_PATHS = ("/v1/files", "/v1/uploads", "/v1/fine_tuning")

# Azure's client: a deployment in the path, or the same paths under another prefix.
AZURE = re.compile(r"/openai(?:/v1)?(?:/deployments/(?P<deployment>[^/]+))?(?P<rest>/.+)")

# Where a route finds the model that Azure's path names.
AZURE_MODEL = "azure_model"

# Where a log finds the id of a request, and that of its key.
REQUEST_ID, KEY_ID = "request_id", "key_id"


@dataclass(frozen=True)
class GateSettings:
    """Who may ask.

    keys        the keys that are accepted; without any, every key is, but one must be shown
    hosts       names of this server, beside the local ones
    max_body    bytes of a body, but of uploaded files
    max_upload  bytes of a body with a file
    """

    keys: KeyRing = field(default_factory=KeyRing)
    hosts: frozenset[str] = frozenset()
    max_body: int = 16 << 20
    max_upload: int = 520 << 20


class Gate:
    """Middleware around the application.

    A key must be shown even where any is accepted: a foreign web page cannot send one without asking first, and gets
    no permission.
    """

    def __init__(self, app: AsgiApp, settings: GateSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = scope.setdefault(REQUEST_ID, f"req_{secrets.token_hex(12)}")

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            _use_azure_path(scope)
            self._check_host(headers)
            self._check_origin(headers)
            if not _is_open(scope["path"]):
                scope[KEY_ID] = self._check_key(scope["method"], scope["path"], headers)
            body = _LimitedBody(receive, send_with_id, self._limit(headers))
        except ApiError as error:
            await answer(error, send_with_id)
            return
        await self.app(scope, body.receive, body.send)

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """A name that leads here by a trick of its owner's name server is not ours (DNS rebinding)."""
        if _host_name(headers.get("host", "")) not in LOCAL_HOSTS | self.settings.hosts:
            message = "This server does not answer to that host name; its operator can add it with --allow-host."
            raise ApiError(403, message, code="invalid_host", headers=DO_NOT_RETRY)

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            message = "Web pages of other origins may not use this server."
            raise ApiError(403, message, code="invalid_origin", headers=DO_NOT_RETRY)

    def _check_key(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        """The id of the key."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        shown = bearer.strip() if scheme.lower() == "bearer" else headers.get("api-key", "")
        if not shown:
            message = (
                "You didn't provide an API key. Send one as a Bearer token in the Authorization header"
                " (Authorization: Bearer YOUR_KEY); set OPENAI_API_KEY for the openai client."
            )
            raise ApiError(401, message, type=INVALID)
        keys = self.settings.keys
        access = keys.find(shown)
        if access is None:
            message = f"Incorrect API key provided: {_masked(shown)}."
            raise ApiError(401, message, code="invalid_api_key")
        scope = _scope_of(method, path)
        if scope not in access.scopes:
            message = f"This key is not for {method} {path}: it lacks the scope '{scope}'."
            raise ApiError(403, message, code="missing_scope", headers=DO_NOT_RETRY)
        if wait := keys.seconds_to_wait(access):
            message = f"Rate limit reached for this key: {access.per_minute} requests a minute."
            headers = {"retry-after-ms": str(int(1000 * wait) + 1), "retry-after": str(max(1, round(wait)))}
            raise ApiError(429, message, code="rate_limit_exceeded", type=RATE, headers=headers)
        return access.id

    def _limit(self, headers: Mapping[str, str]) -> int:
        """The most bytes of the body."""
        is_upload = headers.get("content-type", "").startswith("multipart/form-data")
        if headers.get("content-encoding", "identity") != "identity":
            raise ApiError(415, "Compressed bodies are not accepted.", code="unsupported_encoding")
        limit = self.settings.max_upload if is_upload else self.settings.max_body
        stated = headers.get("content-length", "")
        if stated.isdigit() and int(stated) > limit:
            raise _too_large(limit)
        return limit


class _LimitedBody:
    """The channels of a request, of which the answer is replaced once its body is too large."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive, self._send, self.limit = receive, send, limit
        self.received = 0
        self.begun = self.refused = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        if self.received > self.limit:
            # The application reads no more; whatever it answers to that is replaced.
            self.refused = True
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self.refused and not self.begun:
            if message["type"] == "http.response.start":
                await answer(_too_large(self.limit), self._send)
            return
        self.begun = True
        await self._send(message)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The body has more than {limit} bytes.", code="request_too_large")


def _is_open(path: str) -> bool:
    """Whether a path may be asked for without a key."""
    is_page = path == STUDIO or (path.startswith(f"{STUDIO}/") and not path.startswith(STUDIO_API))
    return path in OPEN_PATHS or is_page


def _scope_of(method: str, path: str) -> str:
    """What a key must be for to ask for this."""
    if path.startswith(TRAINING_PATHS) or (method != "GET" and path.startswith("/v1/models")):
        return "train"
    return "infer" if path.startswith("/v1/") else "admin"


def _use_azure_path(scope: Scope) -> None:
    # As it was sent: a slash in the name of a deployment is encoded.
    found = AZURE.fullmatch((scope.get("raw_path") or scope["path"].encode()).decode("latin-1"))
    if found is not None:
        path = f"/v1{found['rest']}"
        scope["path"], scope["raw_path"] = unquote(path), path.encode("latin-1")
        scope[AZURE_MODEL] = found["deployment"] and unquote(found["deployment"])


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # an address with brackets that do not match
        return ""


def _masked(key: str) -> str:
    """A key that can be recognized but not used."""
    return f"{key[:3]}***{key[-2:]}" if len(key) > 8 else "***"


async def answer(error: ApiError, send: Send) -> None:
    """Answer with an error."""
    body = json.dumps(error.envelope).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
