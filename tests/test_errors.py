"""Messages of errors."""

from __future__ import annotations

import pickle

from bottega.errors import DataError, Overloaded


def test_long_messages_are_shortened() -> None:
    error = DataError("x" * 100_000, where="y" * 5000, fix="z" * 5000)
    assert len(str(error)) < 3100
    assert str(DataError("what", where="here", fix="do")) == "here: what\n  → do"


def test_an_error_of_another_process_is_the_same() -> None:
    error = pickle.loads(pickle.dumps(DataError("what", where="here", fix="do")))
    assert type(error) is DataError
    assert (error.what, error.where, error.fix) == ("what", "here", "do")
    waiting = pickle.loads(pickle.dumps(Overloaded("busy", where="here", seconds=3)))
    assert (waiting.what, waiting.where, waiting.seconds) == ("busy", "here", 3)
