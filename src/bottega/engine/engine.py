"""Six verbs: score, accumulate, update, sample, save, load."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bottega.batch import Batch, Loss, Unit
from bottega.engine.generate import Continuation, Writer
from bottega.engine.optim import Optimizer
from bottega.errors import Diverged, OutOfMemory
from bottega.models.adapters import without
from bottega.models.scorer import Scorer
from bottega.objectives import Objective
from bottega.randomness import derive
from bottega.sampling import Sampling

OPTIMIZER = "optimizer.safetensors"


class Engine:
    """A model that scores batches, gathers gradients and moves.

    reference  a frozen copy to score the policy as the run began; None when switching the adapter off does that
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
    ) -> None:
        self.scorer, self.objective, self.optimizer, self.tokenizer = scorer, objective, optimizer, tokenizer
        self.reference, self.seed = reference, seed
        self.gathered: list[str] = []

    @torch.no_grad()
    def score(self, batch: Batch, *, reference: bool = False) -> dict[str, Tensor]:
        """The outputs the objective reads, without gradient and without dropout."""
        self.scorer.eval()
        scorer = self.reference if reference and self.reference is not None else self.scorer
        switched = without(self.scorer.model) if reference and self.reference is None else contextlib.nullcontext()
        with _memory_named(), switched:
            return cast("dict[str, Tensor]", scorer(batch, self.objective.outputs))

    def complete(self, batch: Batch) -> Batch:
        """The batch with the columns its objective needs from the engine."""
        return (
            batch.with_columns(reference=self.score(batch, reference=True)["logp"])
            if self.objective.reference
            else batch
        )

    def accumulate(self, batch: Batch, counts: Mapping[Unit, float], *, step: int, part: int) -> tuple[Loss, float]:
        """Add this batch's gradient of the update's loss; returns the loss and this batch's share of it.

        counts  of the *whole* update, taken before its first backward
        """
        torch.manual_seed(derive(self.seed, "dropout", step, part))
        self.scorer.train()
        with _memory_named():
            how = {"weighted": self.objective.weighted, "smoothing": self.objective.smoothing}
            scores = self.scorer(batch, self.objective.outputs, **how)
            loss = self.objective.loss(scores, batch)
            total = loss.total(counts)
            share = float(total.detach())
            if not math.isfinite(share):
                raise Diverged(
                    f"the loss is {share} at step {step}",
                    where=_named(_not_finite(scores, batch) or batch.ids),
                    fix="lower optim.lr, or look at these rows with: bottega preview",
                )
            torch.autograd.backward(total * self.optimizer.scale)
        self.gathered += batch.ids
        return loss, share

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
        with _memory_named():
            self.optimizer.step(lr, norm)
        return float(norm)

    def sample(
        self, prompts: Sequence[Sequence[int]], settings: Sampling, *, continuations: int = 1
    ) -> list[list[Continuation]]:
        """Continuations of each prompt by the model as it is now."""
        eos = self.tokenizer.eos_token_id
        ends = frozenset() if eos is None else frozenset([eos])
        writer = Writer(self.scorer.network, self.tokenizer, ends, cached=self.scorer.fit.packed)
        return writer.write(prompts, settings, continuations=continuations)

    def save(self, folder: Path, *, step: int, state: bool) -> None:
        """The model or adapter in transformers' and PEFT's own format with its tokenizer; `state` to go on from.

        Where an average of the weights is kept, that is the model.
        """
        broken = [one.name for one in self.optimizer.trained if not torch.isfinite(one.weight).all()]
        if broken:
            raise Diverged(f"the weights are no numbers after step {step}", where=_named(broken), fix="lower optim.lr")
        with self.optimizer.averaged():
            save_weights(self.scorer.model, folder)
        self.tokenizer.save_pretrained(str(folder))
        if state:
            save_file(self.optimizer.state(), folder / OPTIMIZER)

    def load(self, folder: Path) -> None:
        """The weights and optimiser as they were when `save` wrote the folder with `state`."""
        self.optimizer.load_state(load_file(folder / OPTIMIZER))


def save_weights(model: Any, folder: Path) -> None:
    """The model or its adapter, loadable with plain `from_pretrained`."""
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
def _memory_named() -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(
            "the step did not fit into memory",
            fix="lower optim.tokens, set optim.checkpointing=true, or train an adapter",
        ) from error
