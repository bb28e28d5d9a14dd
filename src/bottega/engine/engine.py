"""Six verbs: score, accumulate, update, sample, save, load."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bottega.batch import Batch, Means, Ratio, Term, Unit, counted, joined
from bottega.engine.offload import Offload
from bottega.engine.optimizer import Optimizer
from bottega.errors import Diverged, ModelError, OutOfMemory, is_out_of_memory
from bottega.inference.generator import Continuation, Writer
from bottega.models.adapters.lora import without
from bottega.models.dimensions import width
from bottega.models.generation_config import make_sound
from bottega.models.heads import LanguageHead, divergence, language_head
from bottega.models.pooling import declare
from bottega.models.scorer import Scorer
from bottega.objectives import Objective
from bottega.objectives.contrastive import Pooling
from bottega.sampling import Sampling
from bottega.seeding import derive

OPTIMIZER = "optimizer.safetensors"

STATES = frozenset({"states"})
"""What a head reads, by which a model is compared with what it was."""


class Part(NamedTuple):
    """What a batch came to: its metrics, and its share of the update's loss."""

    batch: Batch
    metrics: Mapping[str, Term | Ratio]
    share: float


class Engine:
    """A model that scores batches, gathers gradients and moves.

    reference  a frozen copy to score the policy as the run began; None when switching the adapter off does that
    offload    what a forward keeps for its backward waits in the host's memory
    pause      called before each batch is scored, and between continuations: what it raises ends that work
    """

    def __init__(
        self,
        scorer: Scorer,
        objective: Objective,
        optimizer: Optimizer,
        tokenizer: Any,
        *,
        reference: Scorer | None,
        seed: int,
        offload: bool = False,
    ) -> None:
        self.scorer, self.objective, self.optimizer, self.tokenizer = scorer, objective, optimizer, tokenizer
        self.reference, self.seed = reference, seed
        self.gathered: list[str] = []
        self.pause: Callable[[], None] = lambda: None
        self.saving: AbstractContextManager[Any] = Offload(scorer) if offload else contextlib.nullcontext()

    @torch.no_grad()
    def score(
        self, batch: Batch, *, reference: bool = False, outputs: frozenset[str] | None = None
    ) -> dict[str, Tensor]:
        """The outputs the objective reads, or those asked for, without gradient and without dropout."""
        self.pause()
        self.scorer.eval()
        scorer = self.reference if reference and self.reference is not None else self.scorer
        switched = without(self.scorer.model) if reference and self.reference is None else contextlib.nullcontext()
        with memory_named(), switched:
            how = {"tempering": self.objective.tempering if outputs is None else 1.0}
            return cast("dict[str, Tensor]", scorer(batch, outputs or self.objective.outputs, **how))

    @torch.no_grad()
    def rehearse(self, batch: Batch, *, noise: int, number: int) -> dict[str, Tensor]:
        """What `accumulate` will score the batch, the `number`th of its update, if nothing moves until then."""
        self.scorer.train()
        with memory_named(), self._in_one_order():
            return self._scored(batch, noise, number)

    def complete(self, batch: Batch) -> Batch:
        """The batch with the columns its objective needs from the engine."""
        return (
            batch.with_columns(reference=self.score(batch, reference=True)["logp"])
            if self.objective.reference
            else batch
        )

    def accumulate(
        self, batches: Sequence[Batch], counts: Mapping[Unit, float], *, step: int, noise: int | None = None
    ) -> list[Part]:
        """Add the gradient of the update's loss; returns what each batch came to, or all together where it is joint.

        counts  of the *whole* update, taken before its first backward
        noise   dropout is drawn by this number: the same in updates with the same one; by default the step's
        """
        self.scorer.train()
        noise = step if noise is None else noise
        with memory_named(), self._in_one_order():
            if self.objective.joint and len(batches) > 1:
                return [self._jointly(batches, counts, step, noise)]
            return [self._apart(batch, counts, step, noise, number) for number, batch in enumerate(batches)]

    def _in_one_order(self) -> AbstractContextManager[None]:
        """Inside, a model with its own attention adds up gradients in one order on an accelerator as well."""
        if self.scorer.fit.packed or self.scorer.network.device.type == "cpu":
            return contextlib.nullcontext()
        return cast("AbstractContextManager[None]", sdpa_kernel(SDPBackend.MATH))

    def _apart(self, batch: Batch, counts: Mapping[Unit, float], step: int, noise: int, number: int) -> Part:
        scores = self._scored(batch, noise, number)
        total, part = self._judged(scores, batch, counts, step)
        torch.autograd.backward(total)
        return part

    def _jointly(self, batches: Sequence[Batch], counts: Mapping[Unit, float], step: int, noise: int) -> Part:
        """The gradient of a loss of all scores, by the memory of one batch (Gao et al. 2021, arXiv 2101.06983).

        All are scored without gradient; that of the loss is taken for their scores, and each batch, scored a second
        time with the same dropout, carries its own share of it on.
        """
        with torch.no_grad():
            found = [self._scored(batch, noise, number) for number, batch in enumerate(batches)]
        scores = {name: torch.cat([one[name] for one in found]).requires_grad_() for name in found[0]}
        total, part = self._judged(scores, joined(batches), counts, step)
        slopes = torch.autograd.grad(total, list(scores.values()))
        sizes = [len(batch.at) for batch in batches]
        shares = zip(*(torch.split(slope, sizes) for slope in slopes), strict=True)
        for number, (batch, own) in enumerate(zip(batches, shares, strict=True)):
            torch.autograd.backward(list(self._scored(batch, noise, number).values()), own)
        return part

    def _scored(self, batch: Batch, noise: int, number: int) -> dict[str, Tensor]:
        """The scores of an update's batch, the same at every call."""
        self.pause()
        torch.manual_seed(derive(self.seed, "dropout", noise, number))
        objective = self.objective
        how = {"weighted": objective.weighted, "smoothing": objective.smoothing, "tempering": objective.tempering}
        with self.saving:
            scores = cast("dict[str, Tensor]", self.scorer(batch, objective.outputs, **how))
        if torch.is_grad_enabled() and not any(score.requires_grad for score in scores.values()):
            trained = [one.name for one in self.optimizer.trained]
            raise ModelError(
                "no weight that is trained has a part in what is learned",
                where=_named(trained),
                fix="leave out the adapter, or optim.freeze, or name other layers under adapter.targets",
            )
        return scores

    def _judged(
        self, scores: Mapping[str, Tensor], batch: Batch, counts: Mapping[Unit, float], step: int
    ) -> tuple[Tensor, Part]:
        """(what a backward starts from, what the batch came to); Diverged where that is no number."""
        loss = self.objective.loss(scores, batch)
        total = loss.total(counts)
        share = self._refuse_infinite(total, scores, batch, step)
        self.gathered += batch.ids
        return total * self.optimizer.scale, Part(batch, loss.metrics, share)

    @staticmethod
    def _refuse_infinite(total: Tensor, scores: Mapping[str, Tensor], batch: Batch, step: int) -> float:
        """The loss as a number; Diverged where it is none."""
        share = float(total.detach())
        if not math.isfinite(share):
            raise Diverged(
                f"the loss is {share} at step {step}",
                where=_named(_not_finite(scores, batch) or batch.ids),
                fix="lower optim.lr, or look at these rows with: bottega preview",
            )
        return share

    def hold(self, batches: Sequence[Batch], objective: Objective, *, weight: float, anchor: float, step: int) -> Means:
        """Add the gradient that keeps the model what it was on general rows; returns their loss, and the divergence.

        weight  of the loss that `objective` makes of them
        anchor  of KL(as the run began ‖ as it is), a mean over their predictions
        """
        counts, found = counted(batches), Means()
        for number, batch in enumerate(batches):
            before = self.score(batch, reference=True, outputs=STATES)["states"] if anchor else None
            self.scorer.train()
            torch.manual_seed(derive(self.seed, "guard", step, number))
            with memory_named(), self._in_one_order(), self.saving:
                how = {"weighted": objective.weighted and not anchor, "smoothing": objective.smoothing}
                scores = self.scorer(batch, objective.outputs | (STATES if anchor else frozenset()), **how)
                loss = objective.loss(scores, batch)
                total, metrics = weight * loss.total(counts), {"general": next(iter(loss.terms.values()))}
                if before is not None:
                    apart = divergence(self._head(False), scores["states"], self._head(True), before)
                    term = Term((batch.weight * apart).sum(), "token")
                    total = total + anchor * term.sum / max(counts["token"], 1e-12)
                    metrics["divergence"] = term
                self._refuse_infinite(total, scores, batch, step)
                torch.autograd.backward(total * self.optimizer.scale)
            self.gathered += batch.ids
            found.add({name: term._replace(sum=term.sum.detach()) for name, term in metrics.items()}, batch)
        return found

    def _head(self, reference: bool) -> LanguageHead:
        scorer = self.reference if reference and self.reference is not None else self.scorer
        return language_head(scorer.network)

    def update(self, lr: float, *, step: int) -> float:
        """Move the weights by the gradient gathered since the last update; returns its norm before clipping."""
        norm = self.optimizer.norm()
        ids, self.gathered = self.gathered, []
        if not torch.isfinite(norm):
            raise Diverged(
                f"the gradient's norm is {float(norm)} at step {step}",
                where=_named(ids),
                fix="lower optim.lr; the weights are as they were before this step",
            )
        with memory_named():
            self.optimizer.step(lr, norm)
        return float(norm)

    def sample(
        self, prompts: Sequence[Sequence[int]], settings: Sampling, *, ends: frozenset[int], continuations: int = 1
    ) -> list[list[Continuation]]:
        """Continuations of each prompt by the model as it is now; one of `ends` ends them."""
        scorer = self.scorer
        writer = Writer(scorer.network, self.tokenizer, ends, packed=scorer.fit.packed, afresh=scorer.afresh)
        with memory_named():
            return writer.write(prompts, settings, continuations=continuations, far=lambda *_: self.pause())

    def save(self, folder: Path, *, step: int, state: bool) -> None:
        """The model or adapter in transformers' and PEFT's own format with its tokenizer; `state` to go on from.

        Where an average of the weights is kept, that is the model.
        """
        broken = [one.name for one in self.optimizer.trained if not torch.isfinite(one.weight).all()]
        if broken:
            raise Diverged(f"the weights are no numbers after step {step}", where=_named(broken), fix="lower optim.lr")
        with self.optimizer.averaged():
            save_weights(self.scorer.model, folder)
        if isinstance(pooling := getattr(self.objective, "pooling", None), str) and not state:
            declare(folder, cast("Pooling", pooling), self.scorer.width or width(self.scorer.network.config))
        self.tokenizer.save_pretrained(str(folder))
        if state:
            save_file(self.optimizer.state(), folder / OPTIMIZER)

    def load(self, folder: Path) -> None:
        """The weights and optimiser as they were when `save` wrote the folder with `state`."""
        self.optimizer.load_state(load_file(folder / OPTIMIZER))


def save_weights(model: Any, folder: Path) -> None:
    """The model or its adapter, loadable with plain `from_pretrained`."""
    make_sound(model.get_base_model() if hasattr(model, "peft_config") else model)
    if hasattr(model, "peft_config"):
        # "auto" would ask a hub whether the vocabulary has grown.
        model.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        _sort_lists(folder / "adapter_config.json")
    else:
        model.save_pretrained(str(folder))


def _sort_lists(path: Path) -> None:
    """PEFT writes sets in any order; equal adapters are to be equal files."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("target_modules", "modules_to_save"):
        if isinstance(config.get(name), list):
            config[name] = sorted(config[name])
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _not_finite(scores: Mapping[str, Tensor], batch: Batch) -> list[str]:
    """Names of the examples with a score that is not a number."""
    bad = torch.zeros(len(batch.at), dtype=torch.bool, device=batch.at.device)
    for value in scores.values():
        bad |= ~torch.isfinite(value.detach().reshape(len(value), -1)).all(1)
    return [batch.ids[index] for index in sorted(set(batch.example[batch.row[bad]].tolist()))]


def _named(names: Sequence[str]) -> str:
    ids = list(dict.fromkeys(names))
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


@contextlib.contextmanager
def memory_named() -> Iterator[None]:
    """Turn what torch raises without memory into an OutOfMemory with its remedies."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "the step did not fit into memory",
            fix="lower optim.tokens, set optim.checkpointing=true, or train an adapter",
        ) from error
