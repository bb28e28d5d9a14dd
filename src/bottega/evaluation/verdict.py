"""The verdict on a run: one word and one sentence, by the metric and the margin that the recipe declared beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bottega.errors import RunError
from bottega.evaluation.estimates import Estimate
from bottega.metrics.catalog import resolve_metric
from bottega.metrics.intervals import rows_needed

Outcome = Literal["better", "not worse", "inconclusive", "worse", "void"]

# From worst to best, to sort by; `void` is decided before any comparison.
OUTCOMES: tuple[Outcome, ...] = ("worse", "inconclusive", "not worse", "better")

PHRASES = {
    "worse": "worse than",
    "inconclusive": "neither clearly better nor worse than",
    "not worse": "not worse than",
    "better": "better than",
}

# Where the recipe declares no metric, the first of these decides that can be compared, or was measured at all. The
# order is fixed here, before any result is known, so that no metric can be picked for its result.
PRIMARY_METRICS = (
    "reward",
    "preference_accuracy",
    "accuracy",
    "subset_accuracy",
    "span_f1",
    "accuracy_at_1",
    "mae",
    "cosine_mae",
    "loss",
    "numeric_match",
    "fields_f1",
    "rouge_l",
    "chrf",
    "exact_match",
)

# From this fraction of leaked rows on, a result measures memory, and the verdict is void.
MAX_LEAKED_FRACTION = 0.1


@dataclass(frozen=True)
class Verdict:
    """The verdict on a run.

    metric    id of the metric that decides
    margin    the smallest difference that matters, in its unit
    declared  the recipe named the metric
    needed    rows that would show a difference of the margin with a power of 80 %; None where that is unknown
    beside    the baseline that is hardest to beat, which decides
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
    """The verdict by one metric, beside the baseline that is hardest to beat.

    A run that is better than every baseline is better, and one that is worse than any is worse. A baseline without the
    deciding metric is compared by the first in `PRIMARY_METRICS` that it shares with the run; where it is better by
    that, the run is worse, and where not, the other baselines decide.

    metric  the declared metric, by its id or a former name; a RunError where it was not measured
    base    the name of what the estimates are paired with
    others  estimates paired with further baselines, by their names; those that share no metric with the run have no say
    leaked  how many of the `of` rows are training rows: from a tenth on the verdict is void
    """
    primary, declared = _primary_estimate(estimates, metric, others or {}), metric is not None
    decides = None if primary is None else primary.metric
    # Before any comparison: leaked rows flatter the run and its baselines unequally.
    if of and leaked >= MAX_LEAKED_FRACTION * of:
        sentence = f"Void: {leaked} of the {of} rows it was evaluated on are training rows, so it measures memory."
        return Verdict("void", sentence, decides, margin, declared)
    baselines = ({} if base is None else {base: estimates}) | dict(others or {})
    standings = [
        Standing(name, shared, decides, margin)
        for name, theirs in baselines.items()
        if (shared := shared_estimate(theirs, decides))
    ]
    # A baseline without an interval cannot be ranked; it is named at the end.
    known = sorted(
        (standing for standing in standings if standing.estimate.gain is not None), key=lambda standing: standing.rank
    )
    if not known:
        return Verdict("inconclusive", _no_comparison_sentence(standings), decides, margin, declared)
    # Baselines that beat the run come first, then those with the deciding metric; `known` is sorted, hardest first.
    ahead = [standing for standing in known if standing.outcome == "worse"]
    hardest = (ahead or [standing for standing in known if standing.estimate.metric == decides] or known)[0]
    further = [*_other_metric_sentences(hardest, known), *_unknown_sentences(standings, baselines)]
    sentence = " ".join([_main_sentence(hardest, ahead, known), *further])
    return Verdict(hardest.outcome, sentence, decides, margin, declared, hardest.needed, hardest.name)


def shared_estimate(estimates: Sequence[Estimate], metric: str | None) -> Estimate | None:
    """The estimate a baseline is compared by: that of `metric`, else of the first in `PRIMARY_METRICS` that it has."""
    paired = {estimate.metric: estimate for estimate in estimates if estimate.base is not None}
    return next((paired[name] for name in (metric, *PRIMARY_METRICS) if name in paired), None)


@dataclass(frozen=True)
class Standing:
    """How the run stands beside one baseline, by a metric that both have; `decides` is the deciding metric."""

    name: str
    estimate: Estimate
    decides: str | None
    declared_margin: float

    @property
    def margin(self) -> float:
        """The smallest difference that matters; zero for another metric, in whose unit none was declared."""
        return self.declared_margin if self.estimate.metric == self.decides else 0.0

    @property
    def outcome(self) -> Outcome:
        low, high = self.estimate.gain or (0.0, 0.0)
        if low > 0:
            return "better"
        if high < 0:
            return "worse"
        # Non-inferiority: the whole interval is above minus the margin.
        return "not worse" if self.margin > 0 and low > -self.margin else "inconclusive"

    @property
    def rank(self) -> tuple[int, bool, float]:
        """Sorts the baseline that is hardest to beat first: outcome, deciding metric, then the middle of the gain."""
        low, high = self.estimate.gain or (0.0, 0.0)
        return OUTCOMES.index(self.outcome), self.estimate.metric != self.decides, low + high

    @property
    def needed(self) -> int | None:
        """Rows that would show a difference of the margin; None where that is unknown."""
        error = self.estimate.error
        return None if error is None else rows_needed(error, self.estimate.rows, self.margin)

    def numbers(self, of: str = "") -> str:
        """Both values and the interval as text; `of` follows the baseline's value."""
        estimate, (low, high) = self.estimate, self.estimate.interval or (0.0, 0.0)
        difference = f"a difference of {low:+.3g} to {high:+.3g} (95 %, {estimate.rows} rows)"
        return f"{estimate.label} {estimate.run:.3g} against {estimate.base:.3g}{of}, {difference}"


def _primary_estimate(
    estimates: Sequence[Estimate], metric: str | None, others: Mapping[str, Sequence[Estimate]]
) -> Estimate | None:
    """The estimate of the deciding metric: the declared one, else by the order of `PRIMARY_METRICS`."""
    measured = {estimate.metric: estimate for estimate in estimates}
    if metric is not None:
        name = resolve_metric(metric, measured)
        if name not in measured:
            fix = f"one of: {', '.join(measured)}"
            raise RunError(f"the verdict's metric {metric!r} was not measured", where="verdict.metric", fix=fix)
        return measured[name]
    paired = {estimate.metric for theirs in others.values() for estimate in theirs}
    paired |= {estimate.metric for estimate in estimates if estimate.base is not None}
    primary = [name for name in PRIMARY_METRICS if name in measured]
    # A metric that nothing can be compared by decides only where there is no other.
    candidates = [name for name in primary if name in paired] or primary
    return measured[candidates[0]] if candidates else next(iter(estimates), None)


def _no_comparison_sentence(standings: Sequence[Standing]) -> str:
    if not standings:
        return "Inconclusive: there is nothing to compare with."
    rows = max(standing.estimate.rows for standing in standings)
    return f"Inconclusive: {rows} rows are too few, or too similar, for a conclusion."


def _main_sentence(hardest: Standing, ahead: Sequence[Standing], known: Sequence[Standing]) -> str:
    """The first sentence: the outcome, and the values beside the baseline that is hardest to beat."""
    outcome, margin = hardest.outcome, hardest.margin
    if len(ahead) == 1:
        return f"Worse than {hardest.name}{_strongest_of(hardest, known)}: {hardest.numbers()}."
    numbers = hardest.numbers(f" of {hardest.name}{_strongest_of(hardest, known)}")
    if ahead:
        return f"Worse than {_join_names([standing.name for standing in ahead])}: {numbers}."
    if outcome == "not worse":
        return f"Not worse, by the margin of {margin:.3g}: {numbers}."
    if outcome == "better":
        return f"Better: {numbers}.{_margin_sentence(hardest.estimate.interval or (0.0, 0.0), margin)}"
    needed = hardest.needed
    more = "" if needed is None else f" About {needed:,} rows would show a difference of {margin:.3g}."
    return f"Inconclusive: {numbers}.{more}"


def _margin_sentence(interval: tuple[float, float], margin: float) -> str:
    """Whether a difference other than zero is surely larger, or surely smaller, than the margin."""
    least, most = sorted(map(abs, interval))
    if margin > 0 and least >= margin:
        return f" The whole interval is above the margin of {margin:.3g}."
    return f" But the whole interval is below {margin:.3g}, the margin that matters." if most < margin else ""


def _strongest_of(hardest: Standing, known: Sequence[Standing]) -> str:
    """Of how many baselines this is the strongest, where others have the same metric."""
    same = sum(standing.estimate.metric == hardest.estimate.metric for standing in known)
    by = f" by {hardest.estimate.label}" if same < len(known) else ""
    return f", the strongest of {same} baselines{by}" if same > 1 else ""


def _other_metric_sentences(hardest: Standing, known: Sequence[Standing]) -> Iterator[str]:
    """A sentence for each further metric that baselines are compared by, on the one that is hardest to beat by it."""
    seen = {hardest.estimate.metric}
    for standing in known:
        if standing.estimate.metric not in seen:
            seen.add(standing.estimate.metric)
            compared = f"{PHRASES[standing.outcome]} {standing.name}{_strongest_of(standing, known)}"
            yield f"By {standing.estimate.label} it is {compared}: {standing.numbers()}."


def _unknown_sentences(standings: Sequence[Standing], baselines: Iterable[str]) -> Iterator[str]:
    """Baselines that cannot be compared, and why."""
    few = [standing for standing in standings if standing.estimate.gain is None]
    if few:
        rows = max(standing.estimate.rows for standing in few)
        names = _join_names([standing.name for standing in few])
        yield f"No conclusion about {names}: {rows} rows are too few."
    unshared = [name for name in baselines if all(standing.name != name for standing in standings)]
    if unshared:
        yield f"No conclusion about {_join_names(unshared)}: no metric was measured for both."


def _join_names(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
