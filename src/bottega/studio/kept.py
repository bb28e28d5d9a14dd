"""Things that are slow to make, of which the last few are kept; one is made at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

# Files that a model has, as a run or as a folder.
RESULT_FILES = ("resolved.json", "config.json", "model/manifest.json", "adapter/manifest.json")


class Kept(Generic[T]):
    """The last `most` things that were made of models that were asked for."""

    def __init__(self, make: Callable[[str], T], most: int) -> None:
        self._make, self._most = make, most
        self._lock, self._things = threading.Lock(), OrderedDict[str, tuple[int, T]]()

    def get(self, source: str) -> T:
        """The thing of a model, made if it is not there, or if its folder is another one by now."""
        with self._lock:
            stamp = _stamp(Path(source))
            if source not in self._things or self._things[source][0] != stamp:
                self._things[source] = stamp, self._make(source)
            self._things.move_to_end(source)
            while len(self._things) > self._most:
                self._things.popitem(last=False)
            return self._things[source][1]


def _stamp(folder: Path) -> int:
    """When what is in a folder was put there; 0 for a hub id."""
    files = [path for name in RESULT_FILES if (path := folder / name).exists()]
    return max((path.stat().st_mtime_ns for path in files), default=0)
