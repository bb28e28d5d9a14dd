"""One optimizer step: sample examples, pack them into micro-batches, accumulate the gradient, update the weights."""

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
    """Wall and processor time since the last lap."""

    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)

    def lap(self) -> tuple[float, float]:
        """(wall seconds, processor seconds per wall second) since the last lap; starts the next."""
        wall, cpu = time.perf_counter(), time.process_time()
        seconds, cpu_seconds = wall - self.wall, cpu - self.cpu
        self.wall, self.cpu = wall, cpu
        return seconds, cpu_seconds / max(seconds, 1e-9)


def sample_examples(run: Run, update: Update) -> UpdateExamples:
    """The examples of an update: augmented (masking, FIM) by its own seeds, or answers sampled from the policy."""
    if run.rollouts is not None:
        return run.rollouts.sample_update(update.step, update.examples)
    objective, codec = run.recipe.objective, run.data.codec
    # Derived from the step, not from a running generator: a resumed run augments as an uninterrupted one does.
    seeds = (derive(run.recipe.seed, "drawn", update.step, index) for index in range(len(update.examples)))
    pairs = zip(update.examples, seeds, strict=True)
    return UpdateExamples([objective.augment(example, codec, seed) for example, seed in pairs])


def train_step(run: Run, update: Update, sampled: UpdateExamples, clock: Clock) -> Stepped:
    """Make one optimizer step on the sampled examples; return the event that reports it."""
    engine, objective, seed = run.engine, run.recipe.objective, run.recipe.seed

    # 1. Pack the examples into micro-batches, with the reference model's scores as columns where the loss needs them.
    batches = micro_batches(run, sampled.examples)
    # Tokens, rows and examples of the whole update, counted before the first backward pass: each micro-batch divides
    # its sums by these, so the gradient is that of one large batch however the examples are divided.
    counts = count_units(batches)
    batches = with_statistics(run, batches, sampled.examples)

    # 2. Forward and backward pass of each micro-batch; gradients accumulate in the weights.
    # All updates of a rollout share dropout masks, so that the ratio to the old policy shows the movement alone.
    dropout_step = update.step if sampled.dropout_step is None else sampled.dropout_step
    loss, metrics = 0.0, MetricMeans()
    for micro_batch in engine.accumulate(
        objective,
        batches,
        counts,
        step=update.step,
        dropout_seed=lambda index: derive(seed, "dropout", dropout_step, index),
    ):
        loss += micro_batch.loss
        metrics.add(micro_batch.metrics, micro_batch.batch)
    # Replay rows add their gradient last; they have a loss and a weight of their own.
    replay_metrics, replay_batches = _accumulate_replay(run, update.step)

    # 3. Clip the gradient and move the weights.
    lr = run.schedule.lr(update.step)
    grad_norm = engine.update(lr, step=update.step)

    seconds, cpu = clock.lap()
    skipped = {SKIPPED_METRIC: float(update.passed)} if update.passed else {}
    return Stepped(
        step=update.step,
        loss=loss,
        lr=lr,
        grad_norm=grad_norm,
        tokens=sum(batch.computed_token_count for batch in (*batches, *replay_batches)),
        tokens_real=sum(batch.tokens_real for batch in (*batches, *replay_batches)),
        seconds=seconds,
        cpu=cpu,
        memory=memory.peak_bytes(),
        device_memory=run.meter.peak_memory(),
        device_use=run.meter.utilization(),
        epoch=update.position / run.sampler.epoch_examples,
        metrics={**sampled.metrics, **metrics.values(), **replay_metrics.values(), **skipped},
    )


def _accumulate_replay(run: Run, step: int) -> tuple[MetricMeans, list[Batch]]:
    """Add the gradient of the update's replay rows; (their metrics, their batches), both empty without `guard`."""
    if run.replay is None:
        return MetricMeans(), []
    batches = run.replay.batches(step, run.choices.micro_batch_tokens, run.choices.device, packed=run.packed)
    return run.replay.accumulate(run.engine, batches, step), batches
