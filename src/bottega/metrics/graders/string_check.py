"""Whether a text is another, or holds it."""

from __future__ import annotations

from typing import Literal

from bottega.metrics.graders import GradedText, Grader


class StringCheck(Grader):
    """1 if the check holds, else 0.

    eq     both texts are equal
    ne     they differ
    like   the input holds the reference
    ilike  it does, whatever the case of letters
    """

    type: Literal["string_check"]
    input: str
    reference: str
    operation: Literal["eq", "ne", "like", "ilike"]

    def grade(self, text: GradedText) -> float:
        one, other = text.render(self.input), text.render(self.reference)
        checks = {
            "eq": one == other,
            "ne": one != other,
            "like": other in one,
            "ilike": other.casefold() in one.casefold(),
        }
        return float(checks[self.operation])
