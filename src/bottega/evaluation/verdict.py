"""Was it worth it: one word and one sentence, by the number and the margin that the recipe declared before the exam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bottega.errors import RunError
from bottega.evaluation.estimates import Estimate
from bottega.stats import rows_needed

Outcome = Literal["better", "not worse", "inconclusive", "worse", "void"]

RANKS: tuple[Outcome, ...] = ("worse", "inconclusive", "not worse", "better")
"""From bad to good."""

PRIMARY = (
    "reward",
    "preference accuracy",
    "label accuracy",
    "all labels right",
    "span F1",
    "nearest is right",
    "mean error",
    "mean error of the cosine",
    "loss",
    "right number",
    "fields F1",
    "ROUGE-L",
    "chrF",
    "exact match",
)
"""What decides where the recipe does not say: the first of these that stands beside something, or was measured."""

LEAKED = 0.1
"""Share of the rows measured on that stand in the training rows, from which on nothing can be said."""


@dataclass(frozen=True)
class Verdict:
    """What can be said of a run.

    metric    the number that decides
    margin    the smallest difference that matters, in its unit
    declared  the recipe named the metric
    needed    rows by which a difference of the margin would be seen four times out of five; None where that is unknown
    beside    the contender that is hardest to beat, which decides
    """

    outcome: Outcome
    sentence: str
    metric: str | None
    margin: float
    declared: bool = False
    needed: int | None = None
    beside: str | None = None


def judge(
    estimates: Sequence[Estimate],
    *,
    metric: str | None,
    margin: float,
    base: str | None,
    others: Mapping[str, Sequence[Estimate]] | None = None,
    leaked: int = 0,
    of: int = 0,
) -> Verdict:
    """The verdict on a run by one of its estimates, beside the contender that is hardest to beat.

    A run is better that is better than each of them, and worse that is worse than any.

    base    what the estimates stand beside
    others  the same beside further contenders, by their names; one that lacks the metric has no say
    leaked  rows, `of` so many, that the run learned: from a tenth on the exam is void
    """
    one, declared = _primary(estimates, metric, others or {}), metric is not None
    name = None if one is None else one.metric
    if of and leaked >= LEAKED * of:
        said = f"Void: {leaked} of the {of} rows it was measured on stand in its training rows, so it measures memory."
        return Verdict("void", said, name, margin, declared)
    beside = {} if one is None or one.base is None or base is None else {base: one}
    named = ((other, same) for other, theirs in (others or {}).items() for same in theirs)
    beside |= {other: same for other, same in named if same.metric == name}
    if not beside:
        return Verdict("inconclusive", "Inconclusive: there is nothing to compare with.", name, margin, declared)
    sure = {other: same for other, same in beside.items() if same.gain is not None}
    if not sure:
        rows = max(same.rows for same in beside.values())
        said = f"Inconclusive: {rows} rows are too few, or too much alike, to tell anything from."
        return Verdict("inconclusive", said, name, margin, declared)
    hardest = min(sure, key=lambda other: _standing(sure[other], margin))
    same = sure[hardest]
    outcome = _outcome(*(same.gain or (0.0, 0.0)), margin)
    needed = None if same.error is None else rows_needed(same.error, same.rows, margin)
    said = _sentence(outcome, same, margin, hardest, len(sure), needed)
    return Verdict(outcome, said, name, margin, declared, needed, hardest)


def _standing(one: Estimate, margin: float) -> tuple[int, float]:
    """How well the run does beside a contender: by the outcome, then by how much it may be ahead."""
    low, high = one.gain or (0.0, 0.0)
    return RANKS.index(_outcome(low, high, margin)), low + high


def _primary(
    estimates: Sequence[Estimate], metric: str | None, others: Mapping[str, Sequence[Estimate]]
) -> Estimate | None:
    known = {one.metric: one for one in estimates}
    if metric is not None and metric not in known:
        fix = f"one of: {', '.join(known)}"
        raise RunError(
            f"the recipe's verdict is to be by {metric!r}, which was not measured", where="verdict.metric", fix=fix
        )
    if metric is not None:
        return known[metric]
    beside = {one.metric for theirs in others.values() for one in theirs}
    beside |= {one.metric for one in estimates if one.base is not None}
    measured = [name for name in PRIMARY if name in known]
    named = [name for name in measured if name in beside] or measured
    return known[named[0]] if named else next(iter(estimates), None)


def _outcome(low: float, high: float, margin: float) -> Outcome:
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "not worse" if margin > 0 and low > -margin else "inconclusive"


def _sentence(outcome: Outcome, one: Estimate, margin: float, base: str, count: int, needed: int | None) -> str:
    low, high = one.interval or (0.0, 0.0)
    of = base if count == 1 else f"{base}, the strongest of {count} contenders"
    numbers = f"{one.metric} {one.run:.3g} beside {one.base:.3g} of {of}, a difference of {low:+.3g} to {high:+.3g}"
    on = f" (95 %, {one.rows} rows)."
    if outcome == "better":
        sure = margin > 0 and min(abs(low), abs(high)) >= margin
        more = f" It is surely more than the margin of {margin:.3g}." if sure else ""
        small = margin > 0 and max(abs(low), abs(high)) < margin
        more = f" But it is surely less than the margin of {margin:.3g} that matters." if small else more
        return f"Better: {numbers}{on}{more}"
    if outcome == "worse":
        return f"Worse: {numbers}{on}"
    if outcome == "not worse":
        return f"Not worse, by the margin of {margin:.3g}: {numbers}{on}"
    more = "" if needed is None else f" A difference of {margin:.3g} would be seen with about {needed:,} rows."
    return f"Inconclusive: {numbers}{on}{more}"
