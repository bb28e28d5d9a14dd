"""The one thread of a process that computes with models.

torch gives every thread that computes a team of its own, and OpenMP makes threads sleep between two steps as soon as
there are more of them than processors: two threads in turn take half again as long as one. So whatever computes is done
here, loading included: the steps of schedulers in turn, and single calls between them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class ComputeThread:
    """Runs the steps that are registered, in turn, while any of them has something to do; starts when first needed."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], bool]] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._awake = self._closed = False
        self._thread: threading.Thread | None = None

    def register(self, step: Callable[[], bool]) -> None:
        """Call `step` from now on, again and again while it returns True; after that when `wake` is called."""
        with self._changed:
            self._steps = [*self._steps, step]
        self.wake()

    def unregister(self, step: Callable[[], bool]) -> None:
        """Call `step` no more."""
        with self._changed:
            self._steps = [one for one in self._steps if one != step]

    def wake(self) -> None:
        """There is something to do again for one of the steps."""
        with self._changed:
            if self._closed:
                return
            self._awake = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
                self._thread.start()
            self._changed.notify()

    def call(self, function: Callable[[], T]) -> T:
        """Run a function between two steps and return what it returns; it is run at once from the thread itself."""
        if threading.current_thread() is self._thread:
            return function()
        done, outcome = threading.Event(), list[Any]()

        def run() -> None:
            try:
                outcome.extend([function(), None])
            except BaseException as error:  # of any kind: it is raised again where it was asked for
                outcome.extend([None, error])
            done.set()

        with self._changed:
            if self._closed:
                raise RuntimeError("the thread that computes has ended")
            self._calls.append(run)
        self.wake()
        done.wait()
        value, error = outcome
        if error is not None:
            raise error
        result: T = value
        return result

    def close(self) -> None:
        """End once what was called has been done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._awake or self._calls or self._closed):
                    self._changed.wait()
                if self._closed and not self._calls:
                    return
                self._awake = False
                calls, steps = list(self._calls), self._steps
                self._calls.clear()
            for call in calls:
                call()
            # Every step is taken, whichever has more to do.
            busy = [step() for step in steps]
            if any(busy):
                self._awake = True
