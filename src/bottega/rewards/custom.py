"""A reward of the user's own: a function in a file beside the recipe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from bottega.plugins import function, marked, naming
from bottega.rewards import Judge, Reward, Written

EXAMPLE = "def score(written, right): return float(right in written)"


class Custom(Reward):
    """What a function `score(written, right)` of a Python file gives: the same as `bottega evaluate --scorer` takes.

    With a third parameter it is given the row too, with all of its fields; `right` is empty where none is known.

    file  the Python file
    """

    kind: Literal["custom"] = "custom"
    file: str

    @property
    def name(self) -> str:
        return Path(self.file).stem

    def marks(self, written: Sequence[Written], judge: Judge) -> Sequence[float]:
        score: Callable[..., object] = function(self.file, "score", EXAMPLE)
        whole = len(inspect.signature(score).parameters) > 2
        found = []
        for one in written:
            with naming(self.file):
                mark = score(one.text, one.posed.right, *([one.posed.row] if whole else []))
            found.append(marked(mark, self.file))
        return found
