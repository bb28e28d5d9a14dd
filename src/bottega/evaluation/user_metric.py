"""A user-defined metric of generated answers: a Python file with a function `score(answer, reference)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bottega.metrics.answers import Metric
from bottega.metrics.catalog import METRICS
from bottega.plugins import check_score, load_function_from_file, locate_user_errors

Score = Callable[[str, str], float]

EXAMPLE = "def score(answer, reference): return float(reference in answer)"


class UserMetric(Metric):
    """The mean of the user's scores; of several reference answers the best counts. Higher is better."""

    def __init__(self, path: str, score: Score) -> None:
        self.path, self.score = path, score
        # On the instance: each file is a metric of its own. One called as a built-in metric must not replace that.
        name = Path(path).stem
        self.name = f"user_{name}" if name in METRICS else name  # type: ignore[misc]

    def applies_to(self, answers: Sequence[str]) -> bool:
        return True

    def sums(self, answer: str, references: Sequence[str]) -> Sequence[float]:
        return max(self._score(answer, reference) for reference in references), 1.0

    def _score(self, answer: str, reference: str) -> float:
        # An exception inside the user's function names its file.
        with locate_user_errors(self.path):
            score = self.score(answer, reference)
        return check_score(score, self.path)


def load_user_metric(path: str) -> UserMetric:
    """The metric in a file, named as the file, or `user_…` where a built-in metric is named so.

    A RecipeError where the file has no `score`.
    """
    return UserMetric(path, load_function_from_file(path, "score", EXAMPLE))
