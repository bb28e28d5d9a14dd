"""Every objective a second time, in NumPy, from plain logits: what the loss of a whole update must be.

`rows` are (logits [t, V] or [C], row) pairs of one update, in the order of its examples; `reference` holds the same
under the reference policy. A new objective adds its function here, under its own name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bottega.batch import Row

Rows = list[tuple[np.ndarray, Row]]


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def logp(logits: np.ndarray, row: Row) -> np.ndarray:
    return log_softmax(logits)[row.at, row.label]


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0, -x)


def causal(rows: Rows, reference: Rows, objective: Any) -> float:
    terms = [row.weight * logp(logits, row) for logits, row in rows]
    return -sum(map(np.sum, terms)) / sum(row.weight.sum() for _, row in rows)


def sft(rows: Rows, reference: Rows, objective: Any) -> float:
    if objective.weighting == "token":
        return causal(rows, reference, objective)
    return np.mean([-np.average(logp(logits, row), weights=row.weight) for logits, row in rows])


def dpo(rows: Rows, reference: Rows, objective: Any) -> float:
    raised = [logp(new, row).sum() - logp(old, row).sum() for (new, row), (old, _) in zip(rows, reference, strict=True)]
    return -np.mean(log_sigmoid(objective.beta * (np.array(raised[0::2]) - np.array(raised[1::2]))))


def classify(rows: Rows, reference: Rows, objective: Any) -> float:
    return -np.mean([log_softmax(logits)[row.label[0]] for logits, row in rows])


def reward(rows: Rows, reference: Rows, objective: Any) -> float:
    scores = np.array([logits[0] for logits, _ in rows])
    return -np.mean(log_sigmoid(scores[0::2] - scores[1::2]))
