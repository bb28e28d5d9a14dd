"""A model that grades: it is asked for a number."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal

from pydantic import Field

from bottega.metrics.graders import GradedText, Grader, UngradableError

# What the number is asked for with.
INSTRUCTION = "Answer with nothing but a number from {low:g} to {high:g}."

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


class ScoreModel(Grader):
    """The number that a model gives, within a range.

    input            messages; texts are templates
    range            the least and the largest grade
    sampling_params  settings of the model's answer, such as temperature and seed
    """

    type: Literal["score_model"]
    model: str
    input: list[dict[str, Any]] = Field(min_length=1)
    range: tuple[float, float] = (0.0, 1.0)
    sampling_params: dict[str, Any] = Field(default_factory=dict)

    @property
    def asks_model(self) -> bool:
        return True

    def grade(self, text: GradedText) -> float:
        if text.ask_model is None:
            raise UngradableError("model_grader_server_error", "there is no model to ask here")
        low, high = self.range
        messages = [{**message, "content": _content(message, text)} for message in self.input]
        messages.append({"role": "user", "content": INSTRUCTION.format(low=low, high=high)})
        answer = text.ask_model(self.model, messages, self.sampling_params)
        found = _number(answer)
        if found is None:
            reason = f"the model answered no number: {answer[:80]!r}"
            raise UngradableError("model_grader_parse_error", reason)
        return min(max(found, low), high)


def _content(message: dict[str, Any], text: GradedText) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    return "".join(
        text.render(str(part.get("text", "")) if isinstance(part, dict) else str(part or "")) for part in parts
    )


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
