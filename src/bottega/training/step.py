"""One update: draw its examples, pack and complete them, add up the gradient, move the weights."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bottega.batch import Batch, MetricMeans, count_units
from bottega.data.sampler import Update
from bottega.events import Stepped
from bottega.hardware import memory
from bottega.objectives import SKIPPED_METRIC
from bottega.seeding import derive
from bottega.training.needs import micro_batches, with_statistics
from bottega.training.rollout import UpdateExamples
from bottega.training.setup import Run


@dataclass
class Clock:
    """Wall and processor time since it was last asked."""

    wall: float = field(default_factory=time.perf_counter)
    busy: float = field(default_factory=time.process_time)

    def lap(self) -> tuple[float, float]:
        """(wall seconds, processor seconds a second) since the lap before."""
        wall, busy = time.perf_counter(), time.process_time()
        seconds, worked = wall - self.wall, busy - self.busy
        self.wall, self.busy = wall, busy
        return seconds, worked / max(seconds, 1e-9)


def draw(run: Run, update: Update) -> UpdateExamples:
    """The update's examples: augmented by its own seeds (masking, FIM), or answers sampled from the policy."""
    if run.rollouts is not None:
        return run.rollouts.drawn(update.step, update.examples)
    objective, codec = run.recipe.objective, run.data.codec
    seeds = (derive(run.recipe.seed, "drawn", update.step, index) for index in range(len(update.examples)))
    pairs = zip(update.examples, seeds, strict=True)
    return UpdateExamples([objective.augment(example, codec, seed) for example, seed in pairs])


def train_step(run: Run, update: Update, drawn: UpdateExamples, clock: Clock) -> Stepped:
    """Make one update; the event that reports it."""
    engine, objective, seed = run.engine, run.recipe.objective, run.recipe.seed
    batches = micro_batches(run, drawn.examples)
    # One count over the whole update, before the first backward: the loss is a sum divided by it.
    counts = count_units(batches)
    # All updates from one round of answers share the round's dropout masks, so that a ratio shows movement alone.
    noise = update.step if drawn.noise is None else drawn.noise
    total, metrics = 0.0, MetricMeans()
    for part in engine.accumulate(
        objective,
        with_statistics(run, batches, drawn.examples),
        counts,
        step=update.step,
        dropout_seed=lambda index: derive(seed, "dropout", noise, index),
    ):
        total += part.loss
        metrics.add(part.metrics, part.batch)
    replayed, replay_batches = _replay(run, update.step)
    lr = run.schedule.lr(update.step)
    norm = engine.update(lr, step=update.step)
    passed = {SKIPPED_METRIC: float(update.passed)} if update.passed else {}
    seconds, cpu = clock.lap()
    return Stepped(
        step=update.step,
        loss=total,
        lr=lr,
        grad_norm=norm,
        tokens=sum(batch.computed_token_count for batch in (*batches, *replay_batches)),
        tokens_real=sum(batch.tokens_real for batch in (*batches, *replay_batches)),
        seconds=seconds,
        cpu=cpu,
        memory=memory.peak_bytes(),
        device_memory=run.meter.peak_memory(),
        device_use=run.meter.utilization(),
        epoch=update.position / run.sampler.epoch_examples,
        metrics={**drawn.metrics, **metrics.values(), **replayed.values(), **passed},
    )


def _replay(run: Run, step: int) -> tuple[MetricMeans, list[Batch]]:
    """(metrics, batches) of the update's replay rows, whose gradient is added; nothing without `guard`."""
    if run.replay is None:
        return MetricMeans(), []
    batches = run.replay.batches(step, run.choices.micro_batch_tokens, run.choices.device, packed=run.packed)
    return run.replay.accumulate(run.engine, batches, step), batches
