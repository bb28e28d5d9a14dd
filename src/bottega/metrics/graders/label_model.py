"""A model that grades: it is asked for a label."""

from __future__ import annotations

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
        """The label that an answer is, or else that it has first; the longest of those that begin there."""
        said = answer.casefold()
        whole = [label for label in self.labels if label.casefold() == said.strip(" \n.\"'")]
        places = [(said.find(label.casefold()), -len(label), label) for label in self.labels]
        found = [place for place in places if place[0] >= 0]
        return whole[0] if whole else min(found)[2] if found else None
