"""Evaluation of a model, one module per kind of task; the model's head decides which.

Each module has `measure(context)`, which yields the result of the run first, then the result of the base model or of a
trivial baseline, then those of the further baselines; and `DEFAULT_BASELINES`, used where the user names none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.evaluation.tasks import classification, embedding, language, masked_lm, tagging
from bottega.objectives import HeadKind


class Task(NamedTuple):
    """How models with one kind of head are evaluated."""

    measure: Callable[[EvaluationContext], Iterator[ModelResult]]
    default_baselines: tuple[str, ...]


TASKS_BY_HEAD: dict[HeadKind, Task] = {
    "language": Task(language.measure, language.DEFAULT_BASELINES),
    "sequence": Task(classification.measure, classification.DEFAULT_BASELINES),
    "token": Task(tagging.measure, tagging.DEFAULT_BASELINES),
    "masked": Task(masked_lm.measure, masked_lm.DEFAULT_BASELINES),
    "embedding": Task(embedding.measure, embedding.DEFAULT_BASELINES),
}


def evaluate_task(head: HeadKind, context: EvaluationContext) -> Iterator[ModelResult]:
    """The results of a run with this head and of its baselines, one model after another."""
    return TASKS_BY_HEAD[head].measure(context)


def default_baselines(head: HeadKind) -> tuple[str, ...]:
    """The baselines of a run with this head where the user names none."""
    return TASKS_BY_HEAD[head].default_baselines
