"""A log of requests, one JSON object a line, without what was asked unless that is wanted."""

from __future__ import annotations

import json
import secrets
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import bottega
from bottega.server.gate import KEY_ID, REQUEST_ID, AsgiApp, Message, Receive, Scope, Send

# The file name that means standard error.
STANDARD_ERROR = Path("-")

# Bytes of a body that are logged.
MAX_BODY = 1 << 20


class RequestLog:
    """Where requests are logged. `with_bodies`: with the bodies of requests, which have the prompts."""

    def __init__(self, path: Path, *, with_bodies: bool = False) -> None:
        self.with_bodies = with_bodies
        self._file: IO[str]
        try:
            self._file = sys.stderr if path == STANDARD_ERROR else path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            what = f"the log cannot be written: {error.strerror}"
            raise bottega.DiskError(what, where=str(path), fix="choose another file: --log FILE") from None

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; a full disk does not keep anyone from being answered."""
        try:
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            print(f"log: {error}", file=sys.stderr)

    def close(self) -> None:
        """Close the file."""
        if self._file is not sys.stderr:
            self._file.close()


class LogRequests:
    """Middleware that logs every request once it is answered."""

    def __init__(self, app: AsgiApp, log: RequestLog) -> None:
        self.app, self.log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, sent, body = time.monotonic(), 0, 0, bytearray()
        # As it was sent: Azure's paths are changed on the way.
        path = scope["path"]
        scope[REQUEST_ID] = f"req_{secrets.token_hex(12)}"

        async def heard() -> Message:
            message = await receive()
            if self.log.with_bodies and len(body) < MAX_BODY:
                body.extend(message.get("body", b""))
            return message

        async def told(message: Message) -> None:
            nonlocal status, sent
            status = message.get("status", status)
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, heard, told)
        except BaseException:
            # It is answered outside of this middleware, or not at all.
            status = status or 500
            raise
        finally:
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "id": scope[REQUEST_ID],
                "method": scope["method"],
                "path": path,
                "status": status,
                "seconds": round(time.monotonic() - began, 3),
                "bytes": sent,
                "key": scope.get(KEY_ID),
            }
            self.log.write({**line, "body": body[:MAX_BODY].decode(errors="replace")} if self.log.with_bodies else line)
