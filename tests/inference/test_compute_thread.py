"""One thread takes the steps of all that compute, and runs calls between them."""

from __future__ import annotations

import threading
import time

import pytest

from bottega.inference.compute_thread import ComputeThread


def test_steps_are_taken_in_turn_until_none_has_more_to_do() -> None:
    thread, taken, ended = ComputeThread(), list[str](), threading.Event()
    left = {"a": 3, "b": 5}

    def step_of(name: str) -> bool:
        if left[name]:
            left[name] -= 1
            taken.append(name)
        if not any(left.values()):
            ended.set()
        return left[name] > 0

    gate = threading.Event()
    threading.Thread(target=lambda: thread.call(gate.wait)).start()
    time.sleep(0.02)
    thread.register(lambda: step_of("a"))
    thread.register(lambda: step_of("b"))
    gate.set()
    assert ended.wait(10)
    assert taken == ["a", "b"] * 3 + ["b"] * 2
    left["a"] = 1
    thread.wake()
    thread.call(lambda: None)
    assert taken[-1] == "a"
    thread.close()


def test_calls_return_and_raise_where_they_were_made() -> None:
    thread = ComputeThread()
    assert thread.call(lambda: thread.call(threading.current_thread)).name == "compute"
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 / 0)
    thread.close()
    with pytest.raises(RuntimeError, match="ended"):
        thread.call(lambda: 1)
    thread.wake()  # does nothing


def test_a_step_that_is_taken_back_is_not_called() -> None:
    thread, called = ComputeThread(), list[int]()

    def step() -> bool:
        called.append(1)
        return False

    thread.register(step)
    thread.call(lambda: None)
    thread.unregister(step)
    count = len(called)
    thread.wake()
    thread.call(lambda: None)
    assert len(called) == count > 0
    thread.close()
