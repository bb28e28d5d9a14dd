"""A way to mark written answers that the user wrote: a file with a function `score(written, right)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bottega.metrics.answers import Metric
from bottega.plugins import check_score, load_function_from_file, locate_user_errors

Score = Callable[[str, str], float]

EXAMPLE = "def score(written, right): return float(right in written)"


class UserMetric(Metric):
    """The mean of a user's marks; of several right answers the best counts. More is better."""

    def __init__(self, path: str, score: Score) -> None:
        self.path, self.score = path, score

    def fits(self, answers: Sequence[str]) -> bool:
        return True

    def sums(self, written: str, right: Sequence[str]) -> Sequence[float]:
        marks = [self._mark(written, one) for one in right]
        return max(marks), 1.0

    def _mark(self, written: str, right: str) -> float:
        with locate_user_errors(self.path):
            mark = self.score(written, right)
        return check_score(mark, self.path)


def load_user_metric(path: str) -> UserMetric:
    """The scorer in a file, named as the file; a RecipeError where it has no `score`."""
    made = type("Own", (UserMetric,), {"name": Path(path).stem})
    own: UserMetric = made(path, load_function_from_file(path, "score", EXAMPLE))
    return own
