"""Listening."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from typing import Any

import pytest

import bottega
from bottega.server.run import is_local, open_socket, run


def test_a_port_that_is_taken_is_an_error_in_words() -> None:
    with open_socket("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(bottega.DiskError, match="cannot listen: Address already in use"):
            open_socket("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("127.3.2.1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_hosts_of_this_machine(host: str, local: bool) -> None:
    assert is_local(host) == local


async def served_without_delay() -> list[bool]:
    """Whether small parts of an answer leave at once, of the connections of a server."""
    found = list[bool]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.append(bool(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
        writer.close()

    with open_socket("127.0.0.1", 0) as listening:
        server = await asyncio.start_server(answer, sock=listening)
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        await reader.read()
        writer.close()
        server.close()
        await server.wait_closed()
    return found


def test_small_answers_are_not_held_back() -> None:
    """The body of an answer, sent after its head, would else wait for the client to acknowledge that: 40 ms."""
    assert asyncio.run(served_without_delay()) == [True]


def test_a_server_ends_when_it_should() -> None:
    listening, stopped = open_socket("127.0.0.1", 0), threading.Event()
    thread = threading.Thread(target=run, args=(healthy, listening, stopped.is_set))
    thread.start()
    client = http.client.HTTPConnection(*listening.getsockname())
    client.request("GET", "/")
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (200, b"ok")
    assert answer.headers["date"]
    start = time.monotonic()
    stopped.set()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - start < 2
    client.close()


async def healthy(scope: Any, receive: Any, send: Any) -> None:
    """The smallest application."""
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
