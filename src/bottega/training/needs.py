"""Examples → micro-batches with everything their loss reads: reference scores as columns, and statistics.

Objectives declare what they need (`Score`, `Statistic`), and it is computed here, so neither the engine nor the loop
depends on the objective. Scores by the old policy come from `old_scores`, because they are taken at sampling time.
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
    return [_reference_batch(run, group) for group in groups]


def with_statistics(run: Run, batches: Sequence[Batch], examples: Sequence[Example]) -> list[Batch]:
    """The micro-batches of these examples with the statistics (means over all of them) that their loss reads."""
    objective = run.recipe.objective
    needed = [need for need in objective.needs if isinstance(need, Statistic)]
    computed: dict[str, float] = {}
    for need in needed:
        extra = need.examples(examples, run.data.codec.max_length)
        groups = split_into_micro_batches(extra, run.choices.micro_batch_tokens, share=run.packed) if extra else ()
        packed = [_with_reference(run, pack(group, share=run.packed).to(run.choices.device)) for group in groups]
        score = partial(run.engine.score, outputs=objective.outputs, temperature=objective.logit_temperature)
        computed |= statistics(need, packed, score)
    return [replace(batch, statistics=computed) for batch in batches] if computed else list(batches)


def statistics(
    need: Statistic, batches: Sequence[Batch], score: Callable[[Batch], Mapping[str, Tensor]]
) -> dict[str, float]:
    """The statistics of a need, each a mean over all batches."""
    means = MetricMeans()
    for batch in batches:
        means.add(need.terms(score(batch), batch), batch)
    return means.values()


def reference_scores(objective: Objective) -> list[Score]:
    """The scores that the frozen reference model gives."""
    return [need for need in objective.needs if isinstance(need, Score) and need.by == "reference"]


def _reference_batch(run: Run, examples: Sequence[Example]) -> Batch:
    """One micro-batch with its reference scores, which are cached if examples come again."""
    batch, cache = pack(examples, share=run.packed).to(run.choices.device), run.reference_cache
    if cache is None:
        return _with_reference(run, batch)
    if not all(example in cache for example in examples):
        cache.add(examples, _with_reference(run, batch))
    # Read back even if just computed: an example cached earlier keeps its bits, which depend on its batch.
    return batch.with_columns(reference=cache.of(examples).to(run.choices.device))


def _with_reference(run: Run, batch: Batch) -> Batch:
    """The batch with a column for each score by the reference model."""
    objective = run.recipe.objective
    needed = reference_scores(objective)
    if not needed:
        return batch
    outputs = frozenset(need.output for need in needed)
    scores = run.engine.score(batch, outputs, by="reference", temperature=objective.logit_temperature)
    columns: dict[str, Tensor] = {need.column: scores[need.output] for need in needed}
    return batch.with_columns(**columns)
