"""Messages of errors."""

from __future__ import annotations

from bottega.errors import DataError


def test_long_messages_are_shortened() -> None:
    error = DataError("x" * 100_000, where="y" * 5000, fix="z" * 5000)
    assert len(str(error)) < 3100
    assert str(DataError("what", where="here", fix="do")) == "here: what\n  → do"
