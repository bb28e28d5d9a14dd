"""Examples → micro-batches that hold all their objective reads: what it needs scored before the update is filled in.

A need is declared by the objective (`Score`, `Statistic`) and met here, so that neither the engine nor the loop knows
which objective is trained. What a policy said when it sampled its answers is filled in where they are sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from bottega.batch import Batch, Example, MetricMeans
from bottega.objectives import Objective, Score, Statistic
from bottega.packing import pack, split_into_micro_batches
from bottega.training.setup import Run


def micro_batches(run: Run, examples: Sequence[Example]) -> list[Batch]:
    """The examples packed into micro-batches on the device, with the columns their objective needs."""
    groups = split_into_micro_batches(examples, run.choices.micro_batch_tokens, share=run.packed)
    return [_completed(run, group) for group in groups]


def with_statistics(run: Run, batches: Sequence[Batch], examples: Sequence[Example]) -> list[Batch]:
    """The micro-batches of these examples with the numbers that their loss must know of all of them."""
    objective = run.recipe.objective
    needed = [need for need in objective.needs if isinstance(need, Statistic)]
    found: dict[str, float] = {}
    for need in needed:
        scored = need.examples(examples, run.data.codec.max_length)
        groups = split_into_micro_batches(scored, run.choices.micro_batch_tokens, share=run.packed) if scored else ()
        packed = [_with_reference(run, pack(group, share=run.packed).to(run.choices.device)) for group in groups]
        score = partial(run.engine.score, outputs=objective.outputs, temperature=objective.logit_temperature)
        found |= statistics(need, packed, score)
    return [replace(batch, statistics=found) for batch in batches] if found else list(batches)


def statistics(
    need: Statistic, batches: Sequence[Batch], score: Callable[[Batch], Mapping[str, Tensor]]
) -> dict[str, float]:
    """The numbers of a need, each a mean over all batches of what it scores."""
    means = MetricMeans()
    for batch in batches:
        means.add(need.terms(score(batch), batch), batch)
    return means.values()


def reference_scores(objective: Objective) -> list[Score]:
    """The columns that the frozen reference fills."""
    return [need for need in objective.needs if isinstance(need, Score) and need.by == "reference"]


def _completed(run: Run, examples: Sequence[Example]) -> Batch:
    """One micro-batch; what the reference says of its examples is computed once and remembered."""
    batch, cache = pack(examples, share=run.packed).to(run.choices.device), run.reference_cache
    if cache is None:
        return _with_reference(run, batch)
    if not all(example in cache for example in examples):
        cache.add(examples, _with_reference(run, batch))
    # Also where it was just computed: an example known before keeps the bits it had.
    return batch.with_columns(reference=cache.of(examples).to(run.choices.device))


def _with_reference(run: Run, batch: Batch) -> Batch:
    """The batch with every column that the reference fills."""
    objective = run.recipe.objective
    needed = reference_scores(objective)
    if not needed:
        return batch
    outputs = frozenset(need.output for need in needed)
    scores = run.engine.score(batch, outputs, by="reference", temperature=objective.logit_temperature)
    columns: dict[str, Tensor] = {need.column: scores[need.output] for need in needed}
    return batch.with_columns(**columns)
