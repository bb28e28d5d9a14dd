"""Validation during training: loss and metrics on held-out rows."""

from __future__ import annotations

import math
from functools import cached_property
from itertools import islice

import torch

from bottega.batch import Batch, MetricMeans, count_units, join_batches
from bottega.errors import Diverged
from bottega.seeding import derive
from bottega.training.needs import micro_batches, with_statistics
from bottega.training.run_history import GENERAL
from bottega.training.setup import Run


class Validation:
    """The validation rows of a run, packed once, and scored at any step."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def groups(self) -> list[list[Batch]]:
        """Batches whose losses are computed together: an update's worth if examples are compared, else one each."""
        run = self.run
        if not run.recipe.objective.joint:
            return [[batch] for batch in micro_batches(run, run.held_out)]
        return [micro_batches(run, examples) for examples in run.validation]

    def score(self, step: int) -> tuple[float, dict[str, float]]:
        """(loss, metrics) after `step`; raise Diverged if the loss is not finite.

        The loss of an on-policy objective is the negative mean reward of one sampled answer per prompt.
        """
        run = self.run
        with run.engine.optimizer.averaged_weights():
            if run.rollouts is not None:
                # One seed for all validations, so that two of them differ by the policy alone.
                seed = derive(run.recipe.seed, "validation answers")
                reward, metrics = run.rollouts.validate(run.held_out, seed)
                loss = -reward
            else:
                loss, metrics = self._score(step)
        replay_loss = {} if run.replay is None else {GENERAL: self._replay_loss()}
        return loss, {**metrics, **replay_loss}

    def _score(self, step: int) -> tuple[float, dict[str, float]]:
        run, objective = self.run, self.run.recipe.objective
        batches = [batch for group in self.groups for batch in group]
        counts, completed = count_units(batches), iter(with_statistics(run, batches, run.held_out))
        total, metrics = 0.0, MetricMeans()
        for group in self.groups:
            parts = list(islice(completed, len(group)))
            # Scored one by one, for memory; joined afterwards, for a loss that compares all examples.
            scored = [
                run.engine.score(part, objective.outputs, temperature=objective.logit_temperature) for part in parts
            ]
            batch = join_batches(parts)
            loss = objective.loss({name: torch.cat([scores[name] for scores in scored]) for name in scored[0]}, batch)
            part_loss = float(loss.total(counts))
            if not math.isfinite(part_loss):
                raise Diverged(
                    f"the validation loss is {part_loss} at step {step}",
                    where=", ".join(batch.ids[:5]),
                    fix="lower optim.lr, or look at these rows with: bottega preview",
                )
            total += part_loss
            metrics.add(loss.metrics, batch)
        return total, metrics.values()

    def _replay_loss(self) -> float:
        """The loss on held-out replay rows: it rises as the model forgets."""
        run = self.run
        assert run.replay is not None
        with run.engine.optimizer.averaged_weights():
            tokens, device = run.choices.micro_batch_tokens, run.choices.device
            return run.replay.held_out_loss(run.engine, tokens, device, packed=run.packed)
