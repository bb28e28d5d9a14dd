"""The engine: score, accumulate, update, sample, save and load a model, whatever its objective.

What a loss needs beside the scores of its own batch, such as reference log-probabilities, is added to the batch before
it gets here (`training.needs`).
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

# File of a checkpoint that holds the optimizer's state.
OPTIMIZER_FILE = "optimizer.safetensors"

# The most names that an error lists.
MAX_NAMES = 5

# Which weights to score with: the current ones, or those the run started with.
Weights = Literal["policy", "reference"]


class LossFunction(Protocol):
    """The part of an objective that the engine uses: the scores it needs and the loss it computes from them.

    outputs  names of the scores
    joint    the loss compares all examples of an update with each other, so it cannot be computed batch by batch
    weighted smoothing logit_temperature   options of `Scorer.forward`
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
    """What one micro-batch adds to an update.

    metrics  of the batch
    loss     the batch's part of the update's loss; the parts of all batches add up to it
    """

    batch: Batch
    metrics: Mapping[str, Term | Ratio]
    loss: float


class Engine:
    """A model with its optimizer: scores batches, accumulates gradients, is updated and saved.

    reference        a frozen copy with the weights the run started with; None if disabling the adapter restores them
    offload          keep activations for the backward in host memory
    check_stop       called before each forward and between generated tokens; an exception from it ends that work
    accumulated_ids  ids of the examples in the current gradient
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
        self.accumulated_ids: list[str] = []
        # Set by the training loop. A function of the loop's caller, so the engine stays free of signals and threads.
        self.check_stop: Callable[[], None] = lambda: None
        self.offloading: AbstractContextManager[Any] = Offload(scorer) if offload else contextlib.nullcontext()

    @torch.no_grad()
    def score(
        self,
        batch: Batch,
        outputs: frozenset[Any],
        *,
        by: Weights = "policy",
        temperature: float = 1.0,
        dropout_seed: int | None = None,
    ) -> dict[str, Tensor]:
        """The named outputs of a batch, without gradients.

        Dropout is off unless a seed is given. With the seed of a micro-batch the scores are those that `accumulate`
        computes, as long as there is no update in between.
        """
        self.check_stop()
        self.scorer.train(dropout_seed is not None)
        # The frozen copy, or else the model itself with its adapter disabled.
        scorer = self.reference if by == "reference" and self.reference is not None else self.scorer
        adapter_off = by == "reference" and self.reference is None
        adapted = self.scorer.adapted if adapter_off else None
        adapter = contextlib.nullcontext() if adapted is None else adapted.disabled()
        kernels = contextlib.nullcontext() if dropout_seed is None else self._deterministic_attention()
        # Dropout masks come from torch's global generator, in the order of the layers.
        if dropout_seed is not None:
            torch.manual_seed(dropout_seed)
        with out_of_memory_errors(), adapter, kernels:
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
        """Add the gradient of an update's loss; one contribution per batch, or a single one if the loss is joint.

        counts        units of the *whole* update, from `count_units`
        dropout_seed  the seed for the micro-batch with this index
        """
        self.scorer.train()
        with out_of_memory_errors(), self._deterministic_attention():
            seeded = [(batch, dropout_seed(index)) for index, batch in enumerate(batches)]
            # A single batch holds all examples, so a joint loss is computed like any other.
            if objective.joint and len(batches) > 1:
                return [self._accumulate_jointly(objective, seeded, counts, step)]
            return [self._accumulate_batch(objective, batch, seed, counts, step) for batch, seed in seeded]

    def _deterministic_attention(self) -> AbstractContextManager[Any]:
        """Inside the `with` block, a model's own attention adds up gradients in a fixed order on an accelerator too."""
        # Packed models use kernels of ours, which are deterministic. The fused backwards of torch's SDPA are not.
        if self.scorer.fit.packed or self.scorer.network.device.type == "cpu":
            return contextlib.nullcontext()
        context: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH)
        return context

    def _accumulate_batch(
        self, objective: LossFunction, batch: Batch, seed: int, counts: Mapping[Unit, float], step: int
    ) -> Contribution:
        scores = self.training_scores(objective, batch, seed)
        total, contribution = self.compute_loss(objective, scores, batch, counts, step)
        torch.autograd.backward(total)
        return contribution

    def _accumulate_jointly(
        self, objective: LossFunction, seeded: Sequence[tuple[Batch, int]], counts: Mapping[Unit, float], step: int
    ) -> Contribution:
        """Add the gradient of a loss over all batches in the memory of one (GradCache, Gao et al. 2021, 2101.06983).

        All batches are scored without gradients, and the loss is differentiated with respect to the scores. Each batch
        is then scored again, with the same dropout, to propagate its part of that gradient to the weights.
        """
        batches = [batch for batch, _ in seeded]
        with torch.no_grad():
            parts = [self.training_scores(objective, batch, seed) for batch, seed in seeded]
        scores = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}  # [N, …] each
        total, contribution = self.compute_loss(objective, scores, join_batches(batches), counts, step)
        # With respect to the scores only: they have no graph behind them.
        gradients = torch.autograd.grad(total, list(scores.values()))
        sizes = [len(batch.at) for batch in batches]
        by_batch = zip(*(torch.split(gradient, sizes) for gradient in gradients), strict=True)
        for (batch, seed), batch_gradients in zip(seeded, by_batch, strict=True):
            torch.autograd.backward(list(self.training_scores(objective, batch, seed).values()), batch_gradients)
        return contribution

    def training_scores(self, objective: LossFunction, batch: Batch, seed: int) -> dict[str, Tensor]:
        """The scores of a micro-batch in training mode; equal seeds give equal scores."""
        self.check_stop()
        # A seed for each micro-batch: a resumed run, and the second forward of a joint loss, get the same dropout.
        torch.manual_seed(seed)
        with self.offloading:
            scores: dict[str, Tensor] = self.scorer(
                batch,
                objective.outputs,
                weighted=objective.weighted,
                smoothing=objective.smoothing,
                temperature=objective.logit_temperature,
            )
        # Without this check autograd's own message would be about tensors, not about what the recipe trains.
        if torch.is_grad_enabled() and not any(score.requires_grad for score in scores.values()):
            raise ModelError(
                "the loss does not depend on any trained weight",
                where=_first_names([weight.name for weight in self.optimizer.weights]),
                fix="leave out the adapter or optim.freeze, or name other layers in adapter.targets",
            )
        return scores

    def compute_loss(
        self,
        objective: LossFunction,
        scores: Mapping[str, Tensor],
        batch: Batch,
        counts: Mapping[Unit, float],
        step: int,
    ) -> tuple[Tensor, Contribution]:
        """(the scaled loss to call backward on, the batch's contribution); Diverged if the loss is not finite."""
        loss = objective.loss(scores, batch)
        total = loss.total(counts)
        # Reading the loss waits for the device, once for each micro-batch, but no bad gradient is ever added.
        value = float(total.detach())
        if not math.isfinite(value):
            raise Diverged(
                f"the loss is {value} at step {step}",
                where=_first_names(_ids_with_non_finite_scores(scores, batch) or batch.ids),
                fix="lower optim.lr, or look at these rows with: bottega preview",
            )
        self.accumulated_ids += batch.ids
        # Only the gradient is scaled, for float16; the reported loss is not.
        return total * self.optimizer.scale, Contribution(batch, loss.metrics, value)

    def update(self, lr: float, *, step: int) -> float | None:
        """Update the weights by the accumulated gradient and clear it; returns its norm before clipping.

        None, with the weights unchanged, if the gradient was too large for float16: it must be computed again, and will
        be smaller. Raises Diverged, with the weights unchanged, if the norm is not finite otherwise.
        """
        norm = self.optimizer.norm()
        ids, self.accumulated_ids = self.accumulated_ids, []
        # One NaN anywhere makes the norm NaN, so this is the only check a gradient needs.
        if not torch.isfinite(norm):
            if self.optimizer.shrink_scale():
                return None
            raise Diverged(
                f"the gradient norm is {float(norm)} at step {step}",
                where=_first_names(ids),
                fix="lower optim.lr; the weights are those before this step",
            )
        with out_of_memory_errors():
            self.optimizer.step(lr, norm)
        return float(norm)

    def sample(
        self, prompts: Sequence[Sequence[int]], settings: Sampling, *, ends: frozenset[int], continuations: int = 1
    ) -> list[list[Continuation]]:
        """Continuations of each prompt by the current weights, up to a token of `ends`."""
        scorer = self.scorer
        writer = Writer(
            scorer.network,
            self.tokenizer,
            ends,
            packed=scorer.fit.packed,
            reset_row_state=scorer.reset_row_state,
            prefix=scorer.prefix,
            mark=scorer.mark_prompt,
        )
        with out_of_memory_errors():
            return writer.write(
                prompts, settings, continuations=continuations, on_progress=lambda *_: self.check_stop()
            )

    def save(self, folder: Path, *, step: int, state: bool) -> None:
        """Save the model or adapter, averaged if there is an average, and its tokenizer, in their libraries' formats.

        state  also save the optimizer's state, to resume from
        """
        # A finite update can still overflow a half-precision weight.
        broken = [weight.name for weight in self.optimizer.weights if not torch.isfinite(weight.parameter).all()]
        if broken:
            raise Diverged(
                f"weights are not finite after step {step}", where=_first_names(broken), fix="lower optim.lr"
            )
        with self.optimizer.averaged_weights():
            self.scorer.save(folder)
        self.tokenizer.save_pretrained(str(folder))
        if state:
            save_file(self.optimizer.state(), folder / OPTIMIZER_FILE)

    def load(self, folder: Path) -> None:
        """Restore weights and optimizer from a folder that `save` wrote with `state`."""
        # The state holds the masters, so neither a saved average nor half-precision weights are read back.
        self.optimizer.load_state(load_file(folder / OPTIMIZER_FILE))
        if self.scorer.adapted is not None:
            self.scorer.adapted.restore(folder)


def _ids_with_non_finite_scores(scores: Mapping[str, Tensor], batch: Batch) -> list[str]:
    """Ids of the examples with a score that is infinite or NaN."""
    bad = torch.zeros(len(batch.at), dtype=torch.bool, device=batch.at.device)  # [N]
    for value in scores.values():
        bad |= ~torch.isfinite(value.detach().reshape(len(value), -1)).all(1)
    return [batch.ids[index] for index in sorted(set(batch.example[batch.row[bad]].tolist()))]


def _first_names(names: Sequence[str]) -> str:
    """The first distinct names as text, and how many more there are."""
    distinct = list(dict.fromkeys(names))
    rest = len(distinct) - MAX_NAMES
    return ", ".join(distinct[:MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")
