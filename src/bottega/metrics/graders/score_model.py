"""A model that grades: it is asked for a number."""

from __future__ import annotations

import json
import math
import re
from typing import Literal

from bottega.metrics.graders import GradedText, ModelGrader, UngradableError

# What the number is asked for with.
INSTRUCTION = "Answer with nothing but a number from {low:g} to {high:g}."

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


class ScoreModel(ModelGrader):
    """The number that a model gives. `range`: the least and the largest grade."""

    type: Literal["score_model"]
    range: tuple[float, float] = (0.0, 1.0)

    def grade(self, text: GradedText) -> float:
        low, high = self.range
        answer = self.ask(text, INSTRUCTION.format(low=low, high=high))
        found = _number(answer)
        if found is None:
            reason = f"the model answered no number: {answer[:80]!r}"
            raise UngradableError("model_grader_parse_error", reason)
        return min(max(found, low), high)


def _number(answer: str) -> float | None:
    """The number in an answer: of a JSON object with a `result` or `score`, or the first that is written."""
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        document = document.get("result", document.get("score"))
    if isinstance(document, int | float) and not isinstance(document, bool):
        return float(document) if math.isfinite(document) else None
    found = NUMBER.search(answer)
    return float(found[0]) if found and math.isfinite(float(found[0])) else None
