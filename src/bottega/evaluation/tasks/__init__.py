"""What is measured of a model, one file a kind of task.

Each has `measure(case)`, which yields the run's sheet first, then what it is compared with: what it was tuned from, or
the least that could be done, and then the rivals; and `USUAL`, the rivals that are asked where nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from bottega.evaluation.context import Case, Sheet
from bottega.evaluation.tasks import classification, embedding, language, masked_lm, tagging
from bottega.objectives import HeadKind

TASKS: dict[HeadKind, ModuleType] = {
    "language": language,
    "class": classification,
    "token": tagging,
    "masked": masked_lm,
    "embedding": embedding,
}


def measure(head: HeadKind, case: Case) -> Iterator[Sheet]:
    """The sheets of a run with this head and of its contenders."""
    sheets: Iterator[Sheet] = TASKS[head].measure(case)
    return sheets


def usual(head: HeadKind) -> tuple[str, ...]:
    """The rivals of a run with this head where nothing is said."""
    found: tuple[str, ...] = TASKS[head].USUAL
    return found
