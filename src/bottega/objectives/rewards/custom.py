"""A reward of the user's own: a function in a file beside the recipe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from bottega.errors import RecipeError
from bottega.objectives.rewards import RewardFunction, SampledAnswer, ScoreWithModel
from bottega.plugins import check_score, load_function_from_file, locate_user_errors

EXAMPLE = "def score(written, right): return float(right in written)"

PLACES = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class FileReward(RewardFunction):
    """What a function `score(written, right)` of a Python file gives: the same as `bottega evaluate --scorer` takes.

    With a third parameter it is given the row too, with all of its fields; `right` is empty where none is known.

    file  the Python file
    """

    kind: Literal["custom"] = "custom"
    file: str

    @property
    def name(self) -> str:
        return Path(self.file).stem

    def check(self) -> None:
        self._function()

    def scores(self, written: Sequence[SampledAnswer], judge: ScoreWithModel) -> Sequence[float]:
        score, takes_row = self._function()
        found = []
        for one in written:
            with locate_user_errors(self.file):
                mark = score(one.text, one.record.right, *([one.record.row] if takes_row else []))
            found.append(check_score(mark, self.file))
        return found

    def _function(self) -> tuple[Callable[..., object], bool]:
        """(the function, whether it wants the row too)"""
        score = load_function_from_file(self.file, "score", EXAMPLE)
        known = inspect.signature(score).parameters.values()
        wanted = [one for one in known if one.kind in PLACES and one.default is one.empty]
        named = [one.name for one in known if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
        places = sum(one.kind in PLACES for one in known)
        open_ended = any(one.kind is one.VAR_POSITIONAL for one in known)
        if len(wanted) > 3 or named or (places < 2 and not open_ended):
            what = f"score{inspect.signature(score)} is not called with what was written and what is right"
            raise RecipeError(what, where=self.file, fix=f"write it so: {EXAMPLE}")
        return score, len(wanted) == 3
