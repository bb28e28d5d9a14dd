"""Listening."""

from __future__ import annotations

import pytest

import bottega
from bottega.server.run import is_local, open_socket


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
