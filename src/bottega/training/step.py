"""One optimizer step: sample examples, pack them into micro-batches, accumulate the gradient, update the weights.

The gradient is computed between `prepare_update` and `finish_update`, by whoever drives the run: for it alone
(`PendingUpdate.compute`), or for several runs at once (`training.together`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bottega.batch import Batch, MetricMeans, Unit, count_units
from bottega.data.sampler import Update
from bottega.engine.engine import Contribution
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


@dataclass
class PendingUpdate:
    """An update whose micro-batches are packed, and whose gradient is to be computed.

    counts    units of the whole update
    computed  a contribution of each micro-batch, or one if the loss is joint, once the gradient is there
    failed    why it is not
    """

    run: Run
    update: Update
    sampled: UpdateExamples
    batches: Sequence[Batch]
    counts: Mapping[Unit, float]
    computed: list[Contribution] = field(default_factory=list)
    failed: Exception | None = None

    def dropout_seed(self, index: int) -> int:
        """The seed of the dropout of a micro-batch."""
        # All updates of a rollout share dropout masks, so that the ratio to the old policy shows the movement alone.
        step = self.update.step if self.sampled.dropout_step is None else self.sampled.dropout_step
        return derive(self.run.recipe.seed, "dropout", step, index)

    def compute(self) -> None:
        """Forward and backward pass of each micro-batch; gradients accumulate in the weights."""
        objective, step = self.run.recipe.objective, self.update.step
        try:
            self.computed = self.run.engine.accumulate(
                objective, self.batches, self.counts, step=step, dropout_seed=self.dropout_seed
            )
        except Exception as error:  # raised in the run by `finish_update`
            self.failed = error


def prepare_update(run: Run, update: Update, sampled: UpdateExamples) -> PendingUpdate:
    """Pack the sampled examples into micro-batches, with the reference model's scores where the loss needs them."""
    batches = micro_batches(run, sampled.examples)
    # Tokens, rows and examples of the whole update, counted before the first backward pass: each micro-batch divides
    # its sums by these, so the gradient is that of one large batch however the examples are divided.
    counts = count_units(batches)
    return PendingUpdate(run, update, sampled, with_statistics(run, batches, sampled.examples), counts)


def finish_update(pending: PendingUpdate, clock: Clock) -> Stepped:
    """Make the optimizer step of an update whose gradient is computed; return the event that reports it."""
    run, update, sampled = pending.run, pending.update, pending.sampled
    lr = run.schedule.lr(update.step)
    while True:
        if pending.failed is not None:
            raise pending.failed
        # Replay rows add their gradient last; they have a loss and a weight of their own.
        replay_metrics, replay_batches = _accumulate_replay(run, update.step)
        # Clip the gradient and move the weights.
        grad_norm = run.engine.update(lr, step=update.step)
        if grad_norm is not None:
            break
        # It was too large for float16, and its scale is smaller now.
        pending.compute()
    loss, metrics = 0.0, MetricMeans()
    for micro_batch in pending.computed:
        loss += micro_batch.loss
        metrics.add(micro_batch.metrics, micro_batch.batch)

    seconds, cpu = clock.lap()
    skipped = {SKIPPED_METRIC: float(update.passed)} if update.passed else {}
    return Stepped(
        step=update.step,
        loss=loss,
        lr=lr,
        grad_norm=grad_norm,
        tokens=sum(batch.computed_token_count for batch in (*pending.batches, *replay_batches)),
        tokens_real=sum(batch.tokens_real for batch in (*pending.batches, *replay_batches)),
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
