"""Things that are slow to make, of which the last few are kept; one is made at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The last `most` things that were asked for, by their keys."""

    def __init__(self, make: Callable[[str], T], most: int) -> None:
        self._make, self._most = make, most
        self._lock, self._things = threading.Lock(), OrderedDict[str, T]()

    def get(self, key: str) -> T:
        """The thing of a key, made if it is not there."""
        with self._lock:
            if key not in self._things:
                self._things[key] = self._make(key)
            self._things.move_to_end(key)
            while len(self._things) > self._most:
                self._things.popitem(last=False)
            return self._things[key]
