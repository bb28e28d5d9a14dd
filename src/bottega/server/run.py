"""Listening: a socket, the event loop, and an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn

import bottega
from bottega.server.gate import LOCAL_HOSTS

# Connections that wait to be accepted.
BACKLOG = 2048

# Seconds between looks at whether to stop. Each wakes the process, also when nobody asks for anything.
POLL_SECONDS = 0.5

# Seconds that answers have to end after the server was asked to stop.
GRACE_SECONDS = 2


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; a DiskError if the port is taken or the host is none of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol: only then does asyncio send small answers at once, instead of up to 40 ms later (TCP_NODELAY).
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        # Clients that come before the server is ready wait, instead of being refused.
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        fix = "stop what listens there, or choose another port: --port 0 takes a free one"
        raise bottega.DiskError(f"cannot listen: {error.strerror}", where=f"{host}:{port}", fix=fix) from None
    return opened


def is_local(host: str) -> bool:
    """Whether only programs on this machine reach a host."""
    return host in LOCAL_HOSTS or host.startswith("127.")


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it, and ends when `should_stop` says so."""

    def __init__(self, config: uvicorn.Config, should_stop: Callable[[], bool]) -> None:
        super().__init__(config)
        self.should_stop = should_stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        # uvicorn looks ten times a second, which on a slow machine is most of what an idle server takes.
        while not (self.should_stop() or await self.on_tick(0)):
            await asyncio.sleep(POLL_SECONDS)


def run(app: object, listening: socket.socket, should_stop: Callable[[], bool]) -> None:
    """Serve until `should_stop` says so."""
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    asyncio.run(_Server(config, should_stop).serve(sockets=[listening]))
