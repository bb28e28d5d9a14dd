"""Was it worth it: one word and one sentence, by the number and the margin that the recipe declared before the exam."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bottega.errors import RunError
from bottega.evaluation.estimates import Estimate
from bottega.metrics.intervals import rows_needed

Outcome = Literal["better", "not worse", "inconclusive", "worse", "void"]

OUTCOMES: tuple[Outcome, ...] = ("worse", "inconclusive", "not worse", "better")
"""From bad to good."""

PHRASES = {
    "worse": "worse than",
    "inconclusive": "inconclusive beside",
    "not worse": "not worse than",
    "better": "better than",
}

PRIMARY_METRICS = (
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

MAX_LEAKED_FRACTION = 0.1
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


def decide_verdict(
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

    A run is better that is better than each contender, and worse that is worse than any. A contender that lacks the
    number that decides stands beside the run by the first in `PRIMARY` that both have, fixed before anything is
    measured; where it is better by that, the run is worse, and where not, the verdict is left to the others.

    base    what the estimates stand beside
    others  the same beside further contenders, by their names; one that shares no number with the run has no say
    leaked  rows, `of` so many, that the run learned: from a tenth on the exam is void
    """
    one, declared = _primary_estimate(estimates, metric, others or {}), metric is not None
    name = None if one is None else one.metric
    if of and leaked >= MAX_LEAKED_FRACTION * of:
        said = f"Void: {leaked} of the {of} rows it was measured on stand in its training rows, so it measures memory."
        return Verdict("void", said, name, margin, declared)
    everyone = ({} if base is None else {base: estimates}) | dict(others or {})
    beside = [
        Standing(other, same, name, margin) for other, them in everyone.items() if (same := shared_estimate(them, name))
    ]
    known = sorted((other for other in beside if other.one.gain is not None), key=lambda other: other.standing)
    if not known:
        return Verdict("inconclusive", _no_comparison_sentence(beside), name, margin, declared)
    ahead = [other for other in known if other.outcome == "worse"]
    hardest = (ahead or [other for other in known if other.one.metric == name] or known)[0]
    more = [*_other_metric_sentences(hardest, known), *_unknown_sentences(beside, everyone)]
    said = " ".join([_main_sentence(hardest, ahead, known), *more])
    return Verdict(hardest.outcome, said, name, margin, declared, hardest.needed, hardest.name)


def shared_estimate(estimates: Sequence[Estimate], metric: str | None) -> Estimate | None:
    """The number by which a contender stands beside the run: the one that decides, else the first in `PRIMARY`."""
    compared = {one.metric: one for one in estimates if one.base is not None}
    return next((compared[name] for name in (metric, *PRIMARY_METRICS) if name in compared), None)


@dataclass(frozen=True)
class Standing:
    """A contender by the number on which it and the run both stand; `decides` is the number that decides."""

    name: str
    one: Estimate
    decides: str | None
    declared_margin: float

    @property
    def margin(self) -> float:
        """The smallest difference that matters; nothing is known of that in another number's unit."""
        return self.declared_margin if self.one.metric == self.decides else 0.0

    @property
    def outcome(self) -> Outcome:
        low, high = self.one.gain or (0.0, 0.0)
        if low > 0:
            return "better"
        if high < 0:
            return "worse"
        return "not worse" if self.margin > 0 and low > -self.margin else "inconclusive"

    @property
    def standing(self) -> tuple[int, bool, float]:
        """How well the run does: by the outcome, by the number that decides first, then by how far it may be ahead."""
        low, high = self.one.gain or (0.0, 0.0)
        return OUTCOMES.index(self.outcome), self.one.metric != self.decides, low + high

    @property
    def needed(self) -> int | None:
        """Rows by which a difference of the margin would be seen; None where that is unknown."""
        return None if self.one.error is None else rows_needed(self.one.error, self.one.rows, self.margin)

    def numbers(self, of: str = "") -> str:
        """Both numbers and the interval; `of` whom the other is."""
        one, (low, high) = self.one, self.one.interval or (0.0, 0.0)
        difference = f"a difference of {low:+.3g} to {high:+.3g} (95 %, {one.rows} rows)"
        return f"{one.metric} {one.run:.3g} beside {one.base:.3g}{of}, {difference}"


def _primary_estimate(
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
    measured = [name for name in PRIMARY_METRICS if name in known]
    named = [name for name in measured if name in beside] or measured
    return known[named[0]] if named else next(iter(estimates), None)


def _no_comparison_sentence(beside: Sequence[Standing]) -> str:
    """What is said where nothing is known beside anyone."""
    if not beside:
        return "Inconclusive: there is nothing to compare with."
    rows = max(other.one.rows for other in beside)
    return f"Inconclusive: {rows} rows are too few, or too much alike, to tell anything from."


def _main_sentence(hardest: Standing, ahead: Sequence[Standing], known: Sequence[Standing]) -> str:
    """The first sentence: the outcome, and the numbers beside the contender that is hardest to beat."""
    outcome, margin = hardest.outcome, hardest.margin
    if len(ahead) == 1:
        return f"Worse than {hardest.name}{_strongest_of(hardest, known)}: {hardest.numbers()}."
    numbers = hardest.numbers(f" of {hardest.name}{_strongest_of(hardest, known)}")
    if ahead:
        return f"Worse than {_join_names([one.name for one in ahead])}: {numbers}."
    if outcome == "not worse":
        return f"Not worse, by the margin of {margin:.3g}: {numbers}."
    if outcome == "better":
        return f"Better: {numbers}.{_margin_sentence(hardest.one.interval or (0.0, 0.0), margin)}"
    needed = hardest.needed
    more = "" if needed is None else f" A difference of {margin:.3g} would be seen with about {needed:,} rows."
    return f"Inconclusive: {numbers}.{more}"


def _margin_sentence(interval: tuple[float, float], margin: float) -> str:
    """Whether a difference that is surely there matters, where the margin says what does."""
    least, most = sorted(map(abs, interval))
    if margin > 0 and least >= margin:
        return f" It is surely more than the margin of {margin:.3g}."
    return f" But it is surely less than the margin of {margin:.3g} that matters." if most < margin else ""


def _strongest_of(hardest: Standing, known: Sequence[Standing]) -> str:
    """Of how many contenders it is the strongest, where it is not the only one by that number."""
    same = sum(other.one.metric == hardest.one.metric for other in known)
    by = f" by {hardest.one.metric}" if same < len(known) else ""
    return f", the strongest of {same} contenders{by}" if same > 1 else ""


def _other_metric_sentences(hardest: Standing, known: Sequence[Standing]) -> Iterator[str]:
    """A sentence for each further number by which contenders stand, of the one that is hardest to beat by it."""
    told = {hardest.one.metric}
    for other in known:
        if other.one.metric not in told:
            told.add(other.one.metric)
            beside = f"{PHRASES[other.outcome]} {other.name}{_strongest_of(other, known)}"
            yield f"By {other.one.metric} it is {beside}: {other.numbers()}."


def _unknown_sentences(beside: Sequence[Standing], everyone: Iterable[str]) -> Iterator[str]:
    """Contenders of which nothing can be said, and why."""
    few = [other for other in beside if other.one.gain is None]
    if few:
        rows = max(other.one.rows for other in few)
        yield f"Beside {_join_names([other.name for other in few])} nothing can be said: {rows} rows are too few."
    mute = [name for name in everyone if all(other.name != name for other in beside)]
    if mute:
        yield f"Beside {_join_names(mute)} nothing can be said: there is no number that both have."


def _join_names(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
