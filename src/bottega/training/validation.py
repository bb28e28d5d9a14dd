"""How good the model is on the rows that were held out, while it is trained."""

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
    """The held-out rows of a run, packed once, and their loss and metrics at any step."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def groups(self) -> list[list[Batch]]:
        """Batches whose examples are scored together: an update's worth where a loss compares them, else one each."""
        run = self.run
        if not run.recipe.objective.joint:
            return [[batch] for batch in micro_batches(run, run.held_out)]
        return [micro_batches(run, examples) for examples in run.validation]

    def score(self, step: int) -> tuple[float, dict[str, float]]:
        """(loss, metrics) after `step`; Diverged when the loss is not finite.

        Of an objective that learns from rewards the loss is the mean reward, taken negative.
        """
        run = self.run
        with run.engine.optimizer.averaged_weights():
            if run.rollouts is not None:
                # Always with the same seed, so that two validations differ by the policy alone.
                seed = derive(run.recipe.seed, "validation answers")
                reward, metrics = run.rollouts.validated(run.held_out, seed)
                loss = -reward
            else:
                loss, metrics = self._score(step)
        general = {} if run.replay is None else {GENERAL: self._replay_loss()}
        return loss, {**metrics, **general}

    def _score(self, step: int) -> tuple[float, dict[str, float]]:
        run, objective = self.run, self.run.recipe.objective
        batches = [batch for group in self.groups for batch in group]
        counts, completed = count_units(batches), iter(with_statistics(run, batches, run.held_out))
        total, metrics = 0.0, MetricMeans()
        for group in self.groups:
            parts = list(islice(completed, len(group)))
            scored = [
                run.engine.score(part, objective.outputs, temperature=objective.logit_temperature) for part in parts
            ]
            batch = join_batches(parts)
            loss = objective.loss({name: torch.cat([one[name] for one in scored]) for name in scored[0]}, batch)
            share = float(loss.total(counts))
            if not math.isfinite(share):
                raise Diverged(
                    f"the validation loss is {share} at step {step}",
                    where=", ".join(batch.ids[:5]),
                    fix="lower optim.lr, or look at these rows with: bottega preview",
                )
            total += share
            metrics.add(loss.metrics, batch)
        return total, metrics.values()

    def _replay_loss(self) -> float:
        """The loss on the replay rows that are held out."""
        run = self.run
        assert run.replay is not None
        with run.engine.optimizer.averaged_weights():
            tokens, device = run.choices.micro_batch_tokens, run.choices.device
            return run.replay.held_out_loss(run.engine, tokens, device, packed=run.packed)
