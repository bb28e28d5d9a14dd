"""A way to mark written answers that the user wrote: a file with a function `score(written, right)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bottega.errors import RunError
from bottega.evaluation.metrics import Metric
from bottega.plugins import module, naming

Score = Callable[[str, str], float]


class Scorer(Metric):
    """The mean of a user's marks; of several right answers the best counts. More is better."""

    def __init__(self, path: str, score: Score) -> None:
        self.path, self.score = path, score

    def fits(self, answers: Sequence[str]) -> bool:
        return True

    def sums(self, written: str, right: Sequence[str]) -> Sequence[float]:
        marks = [self._mark(written, one) for one in right]
        return max(marks), 1.0

    def _mark(self, written: str, right: str) -> float:
        with naming(self.path):
            found: Any = self.score(written, right)
        if not isinstance(found, (int, float)) or not math.isfinite(found):
            fix = "return a number, or True or False"
            raise RunError(f"score gives {found!r}, which is no number", where=self.path, fix=fix)
        return float(found)


def scorer(path: str) -> Scorer:
    """The scorer in a file, named as the file; a RunError where it has no `score`."""
    if not Path(path).is_file():
        raise RunError("no such file", where=path, fix="name a file of Python with a function score(written, right)")
    with naming(path):
        found = getattr(module(path), "score", None)
    if not callable(found):
        raise RunError("no function score in it", where=path, fix="write one: def score(written, right): return 0.0")
    made = type("Own", (Scorer,), {"name": Path(path).stem})
    own: Scorer = made(path, found)
    return own
