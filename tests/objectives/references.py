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


def smooth_logp(logits: np.ndarray, row: Row, share: float) -> np.ndarray:
    return (1 - share) * logp(logits, row) + share * log_softmax(logits)[row.at].mean(-1)


def causal(rows: Rows, reference: Rows, objective: Any) -> float:
    terms = [row.weight * smooth_logp(logits, row, objective.label_smoothing) for logits, row in rows]
    return -sum(map(np.sum, terms)) / sum(row.weight.sum() for _, row in rows)


def sft(rows: Rows, reference: Rows, objective: Any) -> float:
    if objective.weighting == "token":
        return causal(rows, reference, objective)
    share = objective.label_smoothing
    return np.mean([-np.average(smooth_logp(logits, row, share), weights=row.weight) for logits, row in rows])


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


def grpo(rows: Rows, reference: Rows, objective: Any) -> float:
    lost = []
    for place, (logits, row) in enumerate(rows):
        new = logp(logits / objective.temperature, row)
        advantage, old = row.columns["advantage"], row.columns.get("old", new)
        apart = new - old if objective.ratio == "token" else np.full(len(new), (new - old).mean())
        high = objective.clip if objective.clip_high is None else objective.clip_high
        bounded = np.clip(np.exp(apart), 1 - objective.clip, 1 + high)
        tokens = -np.minimum(np.exp(apart) * advantage, bounded * advantage)
        if objective.beta:
            further = logp(reference[place][0] / objective.temperature, row) - new
            weight = np.exp(apart) if objective.unbiased else 1
            tokens = tokens + objective.beta * weight * (np.exp(further) - further - 1)
        lost.append(tokens)
    if objective.weighting == "token":
        return np.mean(np.concatenate(lost))
    if objective.weighting == "answer":
        return np.mean([tokens.mean() for tokens in lost])
    return np.mean([tokens.sum() / objective.tokens for tokens in lost])


def masked(rows: Rows, reference: Rows, objective: Any) -> float:
    return causal(rows, reference, objective)


def spread(x: np.ndarray, label: int, smoothing: float) -> float:
    wanted = np.full(len(x), smoothing / len(x))
    wanted[label] += 1 - smoothing
    return -(wanted * log_softmax(x)).sum()


def classify(rows: Rows, reference: Rows, objective: Any) -> float:
    share = objective.label_smoothing
    if not objective.multi_label:
        weights = [row.weight[0] for _, row in rows]
        return np.average([spread(logits, row.label[0], share) for logits, row in rows], weights=weights)
    losses = []
    for logits, row in rows:
        yes = row.columns["present"][0] > 0
        wanted = yes * (1 - share) + share / 2
        each = -wanted * log_sigmoid(logits) - (1 - wanted) * log_sigmoid(-logits)
        losses.append((row.columns["counts"][0] * each).mean())
    return np.mean(losses)


def tag(rows: Rows, reference: Rows, objective: Any) -> float:
    share = objective.label_smoothing
    words = [(logits[at], label) for logits, row in rows for at, label in zip(row.at, row.label, strict=True)]
    return np.mean([spread(*word, share) for word in words])


def regress(rows: Rows, reference: Rows, objective: Any) -> float:
    apart = np.abs([logits[0] - row.label[0] for logits, row in rows])
    if objective.error == "huber":
        return np.where(apart < 1, apart**2 / 2, apart - 0.5).mean()
    return np.mean(apart if objective.error == "absolute" else apart**2)


def reward(rows: Rows, reference: Rows, objective: Any) -> float:
    scores = np.array([logits[0] for logits, _ in rows])
    chosen, rejected = scores[0::2], scores[1::2]
    pairs = -np.mean(log_sigmoid(chosen - rejected - objective.margin))
    return pairs + objective.centering * np.mean((chosen + rejected) ** 2)


def custom(rows: Rows, reference: Rows, objective: Any) -> float:
    found = [(logp(logits, row), row.weight) for logits, row in rows]
    focal = [-weight * (1 - np.exp(one)) ** objective.sharpness * one for one, weight in found]
    return sum(map(np.sum, focal)) / sum(weight.sum() for _, weight in found)


def contrastive(rows: Rows, reference: Rows, objective: Any) -> float:
    """`rows` have hidden states where others have logits."""
    vectors = np.stack([hidden[row.at].mean(0) for hidden, row in rows])
    told = [{name: value[0] for name, value in row.columns.items()} for _, row in rows]
    firsts = np.maximum.accumulate([0 if one["pair"] else place for place, one in enumerate(told)])
    pairs = [(int(firsts[place]), place, one["score"]) for place, one in enumerate(told) if one["pair"]]
    if objective.file is not None:
        # torch's pairwise_distance adds 1e-6 to each difference.
        apart = [(np.linalg.norm(vectors[one] - vectors[other] + 1e-6), score) for one, other, score in pairs]
        return np.mean([s * d**2 + (1 - s) * max(0, objective.options["margin"] - d) ** 2 for d, s in apart])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if not told[0]["anchor"]:
        likeness = [(vectors[one] @ vectors[other], score) for one, other, score in pairs]
        if objective.compare == "squared":
            return np.mean([(cosine - score) ** 2 for cosine, score in likeness])
        return np.mean([s * (1 - c) ** 2 + (1 - s) * max(0, objective.margin - 1 + c) ** 2 for c, s in likeness])

    def sought(seeking: int, own: int, among: list[int]) -> float:
        def alike(other: int) -> bool:
            same = any(told[seeking][name] == told[other][name] for name in ("text", "group"))
            return same or told[own]["text"] == told[other]["text"]

        kept = [other for other in among if other == own or not alike(other)]
        scores = np.array([vectors[seeking] @ vectors[other] for other in kept]) / objective.temperature
        return -log_softmax(scores)[kept.index(own)]

    anchors = [place for place, one in enumerate(told) if one["anchor"]]
    others = [place for place, one in enumerate(told) if one["pair"]]
    there = [sought(place, place + 1, others) for place in anchors]
    if not objective.symmetric:
        return np.mean(there)
    return np.mean([there, [sought(place + 1, place, anchors) for place in anchors]])


def span(rows: Rows, reference: Rows, objective: Any) -> float:
    return causal(rows, reference, objective)
