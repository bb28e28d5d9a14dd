"""The engine: a model that is scored, trained and sampled from. Six verbs, and no knowledge of what is minimized.

What a loss needs beside the scores of its own batch is filled into the batch before it gets here (`training.needs`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bottega.batch import Batch, Loss, Ratio, Term, Unit, join_batches
from bottega.engine.offload import Offload
from bottega.engine.optimizer import Optimizer
from bottega.errors import Diverged, ModelError
from bottega.hardware.memory import out_of_memory_errors
from bottega.inference.generator import Continuation, Writer
from bottega.models.scorer import Scorer
from bottega.sampling import Sampling

OPTIMIZER = "optimizer.safetensors"

Policy = Literal["policy", "reference"]
"""Which weights score: those being trained, or the policy as the run began."""


class LossFunction(Protocol):
    """What the engine must know of an objective: which scores it reads, how they are computed, the loss they make.

    joint      the loss compares all examples of an update with each other, so it cannot be computed batch by batch
    weighted smoothing logit_temperature   as `Scorer.forward` takes them
    """

    @property
    def outputs(self) -> frozenset[Any]: ...
    @property
    def joint(self) -> bool: ...
    @property
    def weighted(self) -> bool: ...
    @property
    def smoothing(self) -> float: ...
    @property
    def logit_temperature(self) -> float: ...
    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss: ...


class Contribution(NamedTuple):
    """What a micro-batch adds to an update: its metrics, and its share of the update's loss."""

    batch: Batch
    metrics: Mapping[str, Term | Ratio]
    share: float


class Engine:
    """A model that scores batches, accumulates gradients and is updated.

    reference  a frozen copy that scores as the policy did when the run began; None where disabling the adapter does
    offload    activations kept for the backward wait in the host's memory
    pause      called before each batch is scored, and between continuations: what it raises ends that work
    """

    def __init__(
        self,
        scorer: Scorer,
        optimizer: Optimizer,
        tokenizer: Any,
        *,
        reference: Scorer | None,
        seed: int,
        offload: bool = False,
    ) -> None:
        self.scorer, self.optimizer, self.tokenizer = scorer, optimizer, tokenizer
        self.reference, self.seed = reference, seed
        self.accumulated: list[str] = []
        self.pause: Callable[[], None] = lambda: None
        self.saving: AbstractContextManager[Any] = Offload(scorer) if offload else contextlib.nullcontext()

    @torch.no_grad()
    def score(
        self,
        batch: Batch,
        outputs: frozenset[Any],
        *,
        by: Policy = "policy",
        temperature: float = 1.0,
        dropout_seed: int | None = None,
    ) -> dict[str, Tensor]:
        """The outputs asked for, by name, without gradient; without dropout too, unless a seed for it is given.

        With the seed of a micro-batch the scores are those that `accumulate` will compute, if nothing moves first.
        """
        self.pause()
        self.scorer.train(dropout_seed is not None)
        scorer = self.reference if by == "reference" and self.reference is not None else self.scorer
        adapter_off = by == "reference" and self.reference is None
        adapted = self.scorer.adapted if adapter_off else None
        switched = contextlib.nullcontext() if adapted is None else adapted.disabled()
        in_order = contextlib.nullcontext() if dropout_seed is None else self._in_one_order()
        if dropout_seed is not None:
            torch.manual_seed(dropout_seed)
        with out_of_memory_errors(), switched, in_order:
            scores: dict[str, Tensor] = scorer(batch, outputs, temperature=temperature)
            return scores

    def accumulate(
        self,
        objective: LossFunction,
        batches: Sequence[Batch],
        counts: Mapping[Unit, float],
        *,
        step: int,
        dropout_seed: Callable[[int], int],
    ) -> list[Contribution]:
        """Add the gradient of an update's loss; each batch's contribution, or a single one where the loss is joint.

        counts        of the *whole* update, taken before its first backward
        dropout_seed  of the micro-batch with this index
        """
        self.scorer.train()
        with out_of_memory_errors(), self._in_one_order():
            seeded = [(batch, dropout_seed(index)) for index, batch in enumerate(batches)]
            if objective.joint and len(batches) > 1:
                return [self._jointly(objective, seeded, counts, step)]
            return [self._apart(objective, batch, seed, counts, step) for batch, seed in seeded]

    def _in_one_order(self) -> AbstractContextManager[Any]:
        """Inside, a model with its own attention adds up gradients in one order on an accelerator as well."""
        if self.scorer.fit.packed or self.scorer.network.device.type == "cpu":
            return contextlib.nullcontext()
        context: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH)
        return context

    def _apart(
        self, objective: LossFunction, batch: Batch, seed: int, counts: Mapping[Unit, float], step: int
    ) -> Contribution:
        scores = self._scores(objective, batch, seed)
        total, contribution = self._loss(objective, scores, batch, counts, step)
        torch.autograd.backward(total)
        return contribution

    def _jointly(
        self, objective: LossFunction, seeded: Sequence[tuple[Batch, int]], counts: Mapping[Unit, float], step: int
    ) -> Contribution:
        """The gradient of a loss of all scores in the memory of one batch (Gao et al. 2021, arXiv 2101.06983).

        All are scored without gradient; the loss is differentiated for the scores alone, and each batch, scored again
        with the same dropout, carries its part of that gradient on to the weights.
        """
        batches = [batch for batch, _ in seeded]
        with torch.no_grad():
            parts = [self._scores(objective, batch, seed) for batch, seed in seeded]
        scores = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}
        total, contribution = self._loss(objective, scores, join_batches(batches), counts, step)
        gradients = torch.autograd.grad(total, list(scores.values()))
        sizes = [len(batch.at) for batch in batches]
        by_batch = zip(*(torch.split(gradient, sizes) for gradient in gradients), strict=True)
        for (batch, seed), own in zip(seeded, by_batch, strict=True):
            torch.autograd.backward(list(self._scores(objective, batch, seed).values()), own)
        return contribution

    def _scores(self, objective: LossFunction, batch: Batch, seed: int) -> dict[str, Tensor]:
        """The scores of a micro-batch of an update, the same at every call."""
        self.pause()
        torch.manual_seed(seed)
        with self.saving:
            scores: dict[str, Tensor] = self.scorer(
                batch,
                objective.outputs,
                weighted=objective.weighted,
                smoothing=objective.smoothing,
                temperature=objective.logit_temperature,
            )
        if torch.is_grad_enabled() and not any(score.requires_grad for score in scores.values()):
            raise ModelError(
                "no weight that is trained has a part in what is learned",
                where=_listed([weight.name for weight in self.optimizer.trained]),
                fix="leave out the adapter, or optim.freeze, or name other layers under adapter.targets",
            )
        return scores

    def _loss(
        self,
        objective: LossFunction,
        scores: Mapping[str, Tensor],
        batch: Batch,
        counts: Mapping[Unit, float],
        step: int,
    ) -> tuple[Tensor, Contribution]:
        """(the tensor to call backward on, the batch's contribution); Diverged where the loss is not finite."""
        loss = objective.loss(scores, batch)
        total = loss.total(counts)
        share = float(total.detach())
        if not math.isfinite(share):
            raise Diverged(
                f"the loss is {share} at step {step}",
                where=_listed(_not_finite(scores, batch) or batch.ids),
                fix="lower optim.lr, or look at these rows with: bottega preview",
            )
        self.accumulated += batch.ids
        return total * self.optimizer.scale, Contribution(batch, loss.metrics, share)

    def update(self, lr: float, *, step: int) -> float:
        """Move the weights by the gradient gathered since the last update; returns its norm before clipping."""
        norm = self.optimizer.norm()
        ids, self.accumulated = self.accumulated, []
        if not torch.isfinite(norm):
            raise Diverged(
                f"the gradient's norm is {float(norm)} at step {step}",
                where=_listed(ids),
                fix="lower optim.lr; the weights are as they were before this step",
            )
        with out_of_memory_errors():
            self.optimizer.step(lr, norm)
        return float(norm)

    def sample(
        self, prompts: Sequence[Sequence[int]], settings: Sampling, *, ends: frozenset[int], continuations: int = 1
    ) -> list[list[Continuation]]:
        """Continuations of each prompt by the model as it is now; one of `ends` ends them."""
        scorer = self.scorer
        writer = Writer(scorer.network, self.tokenizer, ends, packed=scorer.fit.packed, afresh=scorer.reset_row_state)
        with out_of_memory_errors():
            return writer.write(prompts, settings, continuations=continuations, far=lambda *_: self.pause())

    def save(self, folder: Path, *, step: int, state: bool) -> None:
        """The model or adapter in transformers' and PEFT's own format with its tokenizer; `state` to go on from.

        Where an average of the weights is kept, that is the model.
        """
        broken = [one.name for one in self.optimizer.trained if not torch.isfinite(one.weight).all()]
        if broken:
            raise Diverged(f"the weights are no numbers after step {step}", where=_listed(broken), fix="lower optim.lr")
        with self.optimizer.averaged():
            self.scorer.save(folder)
        self.tokenizer.save_pretrained(str(folder))
        if state:
            save_file(self.optimizer.state(), folder / OPTIMIZER)

    def load(self, folder: Path) -> None:
        """The weights and optimiser as they were when `save` wrote the folder with `state`."""
        self.optimizer.load_state(load_file(folder / OPTIMIZER))


def _not_finite(scores: Mapping[str, Tensor], batch: Batch) -> list[str]:
    """Names of the examples with a score that is not a number."""
    bad = torch.zeros(len(batch.at), dtype=torch.bool, device=batch.at.device)
    for value in scores.values():
        bad |= ~torch.isfinite(value.detach().reshape(len(value), -1)).all(1)
    return [batch.ids[index] for index in sorted(set(batch.example[batch.row[bad]].tolist()))]


def _listed(names: Sequence[str]) -> str:
    ids = list(dict.fromkeys(names))
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
