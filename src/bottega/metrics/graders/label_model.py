"""A model that grades: it is asked for a label."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from bottega.metrics.graders import GradedText, ModelGrader, UngradableError

# What the label is asked for with.
INSTRUCTION = "Answer with nothing but one of these labels: {labels}."


class LabelModel(ModelGrader):
    """1 if the label that a model gives is one that passes, else 0.

    labels          what it may answer
    passing_labels  those for a good answer
    """

    type: Literal["label_model"]
    labels: list[str] = Field(min_length=1)
    passing_labels: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> LabelModel:
        if not all(label.strip() for label in self.labels):
            raise ValueError("a label is empty")
        if unknown := [label for label in self.passing_labels if label not in self.labels]:
            raise ValueError(f"the passing label {unknown[0]} is none of the labels")
        return self

    def grade(self, text: GradedText) -> float:
        answer = self.ask(text, INSTRUCTION.format(labels=", ".join(self.labels)))
        label = self._label(answer)
        if label is None:
            raise UngradableError("model_grader_parse_error", f"the model answered no label: {answer[:80]!r}")
        return float(label in self.passing_labels)

    def _label(self, answer: str) -> str | None:
        """The label that the answer has first; the longest of those that begin there."""
        found = [
            (match.start(), -len(label), label)
            for label in self.labels
            # Not within a word: "no" is not in "I know".
            if (match := re.search(rf"(?<!\w){re.escape(label)}(?!\w)", answer, re.IGNORECASE))
        ]
        return min(found)[2] if found else None
