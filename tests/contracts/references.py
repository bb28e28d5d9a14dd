"""Every objective a second time, in NumPy, from plain logits: what the loss of a whole update must be.

`rows` are (logits [t, V] or [C], row) pairs of one update, in the order of its examples; `reference` holds the same
under the reference policy. Behind them stand the rows an objective asks to be scored before. A new objective adds its
function here, under its own name.
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


def raised(rows: Rows, reference: Rows, of: Any = np.sum) -> np.ndarray:
    pairs = zip(rows, reference, strict=True)
    return np.array([of(logp(new, row) - logp(old, row)) for (new, row), (old, _) in pairs])


def smoothed(margin: np.ndarray, share: float) -> np.ndarray:
    return -(1 - share) * log_sigmoid(margin) - share * log_sigmoid(-margin)


def dpo(rows: Rows, reference: Rows, objective: Any) -> float:
    found = raised(rows, reference, np.mean if objective.normalised else np.sum)
    margin, share = found[0::2] - found[1::2], objective.label_smoothing
    if objective.form == "ipo":
        return np.mean((margin - 0.5 / objective.beta) ** 2)
    margin = objective.beta * margin
    if objective.form == "robust":
        return np.mean((-(1 - share) * log_sigmoid(margin) + share * log_sigmoid(-margin)) / (1 - 2 * share))
    return np.mean(smoothed(margin, share))


def orpo(rows: Rows, reference: Rows, objective: Any) -> float:
    def of(logits: np.ndarray, row: Row, column: str) -> np.ndarray:
        return logp(logits, row)[row.columns[column] > 0]

    p = np.exp([of(logits, row, "answer").mean() for logits, row in rows])
    odds = p / (1 - p)
    likelihood = np.concatenate([of(logits, row, "learned") for logits, row in rows])
    return -likelihood.mean() - objective.weight * np.mean(log_sigmoid(np.log(odds[0::2] / odds[1::2])))


def simpo(rows: Rows, reference: Rows, objective: Any) -> float:
    mean = np.array([logp(logits, row).mean() for logits, row in rows])
    margin = objective.beta * (mean[0::2] - mean[1::2]) - objective.gamma
    return np.mean(smoothed(margin, objective.label_smoothing))


def cpo(rows: Rows, reference: Rows, objective: Any) -> float:
    found = [logp(logits, row) for logits, row in rows]
    sums = np.array([values.sum() for values in found])
    chosen = -np.mean(sums[0::2]) if objective.likelihood == "answer" else -np.mean(np.concatenate(found[0::2]))
    pairs = smoothed(objective.beta * (sums[0::2] - sums[1::2]), objective.label_smoothing)
    return np.mean(pairs) + objective.weight * chosen


def kto(rows: Rows, reference: Rows, objective: Any) -> float:
    """The second half of the rows are the probes."""
    found, half = raised(rows, reference), len(rows) // 2
    apart = max(0.0, found[half:].mean())
    good = np.array([row.columns["desirable"][0] > 0 for _, row in rows[:half]])
    value = 1 / (1 + np.exp(-objective.beta * np.where(good, found[:half] - apart, apart - found[:half])))
    return np.mean(np.where(good, objective.desirable, objective.undesirable) * (1 - value))


def classify(rows: Rows, reference: Rows, objective: Any) -> float:
    return -np.mean([log_softmax(logits)[row.label[0]] for logits, row in rows])


def reward(rows: Rows, reference: Rows, objective: Any) -> float:
    scores = np.array([logits[0] for logits, _ in rows])
    chosen, rejected = scores[0::2], scores[1::2]
    pairs = -np.mean(log_sigmoid(chosen - rejected - objective.margin))
    return pairs + objective.centering * np.mean((chosen + rejected) ** 2)
