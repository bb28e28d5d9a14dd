"""Gradients gathered, clipped, and given to AdamW and Muon.

What they move are the float32 masters of the weights, so that updates smaller than half precision can show are not
lost. Gradients of several micro-batches are added up in float32 too.
"""

from __future__ import annotations

import fnmatch
import re
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from bottega.engine.adamw import PART, AdamW
from bottega.engine.ema import Average
from bottega.engine.master_weights import LARGE, Trained, wide, with_master
from bottega.engine.muon import Muon
from bottega.errors import CheckpointError, RecipeError
from bottega.recipe.schema import Optim

FLOAT16_SCALE = 2.0**12
"""Gradients of float16 weights are computed this much larger, or the small ones would be rounded to zero."""

LAYER = re.compile(r"(?:^|\.)(\d+)\.")
"""Where the name of a weight says in which layer it stands."""

BELOW = re.compile(r"(^|\.)(embed|wte|wpe|word_embeddings)")
"""Names of what stands below the layers."""


class Rule(Protocol):
    """Moves some of the weights; keeps tensors beside each, by the weight's name and their own."""

    state: dict[str, dict[str, Tensor]]

    def step(self, gradients: dict[str, Tensor], lr: float, divisor: Tensor | None) -> None: ...


class Optimizer:
    """Moves the trained weights of a model. Gradients gather here as backward passes run.

    embeddings  names of weights that are no matrices for Muon, whatever their shape: embeddings and heads
    scale       what a loss must be multiplied by before its backward
    gradients   by name, `scale` times too large: as the backward made them, or the float32 sum of several
    """

    def __init__(self, model: nn.Module, settings: Optim, embeddings: Iterable[str] = ()) -> None:
        self.trained = [with_master(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self.scale = FLOAT16_SCALE if any(one.weight.dtype == torch.float16 for one in self.trained) else 1.0
        self.gradients: dict[str, Tensor] = {}
        for one in self.trained:
            cast(Any, one.weight).register_post_accumulate_grad_hook(self._gatherer(one.name))
        by_rows = gradients_by_rows(model) if not settings.weight_decay else ()
        embeddings = set(embeddings)
        rates = layer_rates([one.name for one in self.trained], settings.layer_decay or 1.0)
        self.rules: list[tuple[float, Rule]] = [
            (rate, rule)
            for rate in sorted(set(rates.values()))
            for rule in _rules(
                [one for one in self.trained if rates[one.name] == rate], settings, set(embeddings), by_rows
            )
        ]
        self.average = None if settings.ema is None else Average(self.trained, settings.ema)
        self.clip = settings.clip

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the weights are their average, where one is kept."""
        return nullcontext() if self.average is None else self.average.applied()

    def norm(self) -> Tensor:
        """Norm of the whole gathered gradient."""
        if not self.gradients:
            return torch.zeros(())
        # Cut as a step is: the norm of a half-precision tensor makes a float32 copy of it.
        squares = torch.stack([torch.dot(part, part).double() for part in _parts(self.gradients.values())])
        return squares.sum().sqrt().float() / self.scale

    def step(self, lr: float, norm: Tensor) -> None:
        """Move the weights by the gathered gradient, clipped, and forget it."""
        divisor = self._divisor(norm)
        for rate, rule in self.rules:
            rule.step(self.gradients, rate * lr, divisor)
        if self.average is not None:
            self.average.update()

    def _divisor(self, norm: Tensor) -> Tensor | None:
        """What gathered gradients are to be divided by: their scale, and what the norm is too large by."""
        if self.clip is None:
            return None if self.scale == 1.0 else torch.tensor(self.scale, device=norm.device)
        return (norm / self.clip).clamp(min=1.0).float() * self.scale

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on, by name: the master of each weight and what the optimisers keep beside it."""
        return {f"{name}|{key}": value for name, key, value in self._kept()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        lost = [name for name, key, _ in self._kept() if f"{name}|{key}" not in state]
        if lost:
            what = "this checkpoint keeps other things than a resume needs: another version wrote it"
            raise CheckpointError(what, where=lost[0], fix="start a new run with its recipe.yaml")
        for one in self.trained:
            one.load({key: state[f"{one.name}|{key}"] for key in one.kept})
        for name, key, value in self._beside():
            value.copy_(state[f"{name}|{key}"])

    def _kept(self) -> Iterator[tuple[str, str, Tensor]]:
        for one in self.trained:
            yield from ((one.name, key, value) for key, value in one.kept.items())
        yield from self._beside()

    def _beside(self) -> Iterator[tuple[str, str, Tensor]]:
        """What is kept beside the weights."""
        states = [rule.state for _, rule in self.rules] + ([] if self.average is None else [self.average.state])
        for state in states:
            for name, kept in state.items():
                yield from ((name, key, value) for key, value in kept.items())

    def _gatherer(self, name: str) -> Callable[[Tensor], None]:
        """Takes a weight's gradient as soon as it is complete."""
        # A weight holds its hook where Python's collector does not look: what that held would never be freed.
        owner = weakref.ref(self)

        def gather(weight: Tensor) -> None:
            optimizer = owner()
            assert weight.grad is not None
            if optimizer is None:  # the model outlives its training, and its gradients are somebody else's
                return
            gradient, weight.grad = weight.grad, None
            # A token that stands several times in a batch has several rows of a gradient by rows.
            gradient = wide(gradient).coalesce() if gradient.is_sparse else gradient
            before = optimizer.gradients.get(name)
            optimizer.gradients[name] = gradient if before is None else added(before, gradient)

        return gather


def _parts(gradients: Iterable[Tensor]) -> Iterator[Tensor]:
    """All their numbers in float32 or wider: large ones in parts, as a step takes them, small ones together."""
    small = []
    for gradient in gradients:
        flat = (gradient.values() if gradient.is_sparse else gradient).reshape(-1)
        if len(flat) < LARGE:
            small.append(flat)
        else:
            yield from map(wide, torch.split(flat, PART[flat.device.type]))
    if small:
        yield wide(torch.cat(small))


def added(before: Tensor, gradient: Tensor) -> Tensor:
    """Their sum in float32 or wider, by rows where both are."""
    if before.is_sparse:
        return (before + gradient).coalesce() if gradient.is_sparse else wide(gradient) + before
    return wide(before).add_(gradient)


def gradients_by_rows(model: nn.Module) -> set[str]:
    """Names of trained embeddings that are nothing else, whose gradients are from now on of the rows looked up alone.

    Those of most rows are 0; a matrix of them is made, measured and read for each update otherwise.
    """
    holders = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    found = set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or module.weight.numel() < LARGE:
            continue
        if module.weight.requires_grad and holders[id(module.weight)] == 1:
            module.sparse = True
            found.add(f"{name}.weight")
    return found


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take weights whose names match a pattern out of training; a RecipeError where one matches none, or all go."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for pattern in patterns:
        found = fnmatch.filter(trained, pattern)
        if not found:
            near = ", ".join(list(trained)[:3])
            raise RecipeError(
                f"{pattern!r} is no trained weight", where="optim.freeze", fix=f"they are called {near} …"
            )
        for name in found:
            trained[name].requires_grad_(False)
    if not any(weight.requires_grad for weight in trained.values()):
        raise RecipeError("nothing is left to train", where="optim.freeze", fix="leave some weights out of it")


def layer_rates(names: Sequence[str], decay: float) -> dict[str, float]:
    """What each weight's learning rate is to be multiplied by (Clark et al. 2020, arXiv 2003.10555).

    A head, and what else stands above the layers, learns at the full rate, the uppermost layer at `decay` of it, and
    so on down to the embeddings.
    """
    layers = {name: int(found[1]) for name in names if (found := LAYER.search(name))}
    above = max(layers.values(), default=-1) + 1
    depth = {name: layers.get(name, -1 if BELOW.search(name) else above) for name in names}
    return {name: decay ** (above - layer) for name, layer in depth.items()}


def _rules(weights: Sequence[Trained], settings: Optim, kept: Collection[str], by_rows: Collection[str]) -> list[Rule]:
    """Matrices decay, vectors do not; Muon has those that are neither embeddings nor heads."""
    matrices = [one for one in weights if one.weight.dim() >= 2]
    for_muon = [one for one in matrices if one.weight.dim() == 2 and one.name not in kept]
    for_muon = for_muon if settings.optimizer == "muon" else []
    return [
        Muon(for_muon, settings.weight_decay),
        AdamW([one for one in matrices if one not in for_muon], settings.betas, settings.weight_decay, by_rows),
        AdamW([one for one in weights if one not in matrices], settings.betas, 0.0),
    ]
