"""AdamW and Muon over float32 master copies.

Weights that compute in half precision have a float32 master: gradients are added up in it across micro-batches and
updates smaller than half precision can show are not lost. Weights that are float32 already are their own master.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.engine.muon import Muon
from bottega.recipe import Optim

FLOAT16_SCALE = 2.0**12
"""Gradients of float16 weights are computed this much larger, or the small ones would be rounded to zero."""


class Optimizer:
    """Moves the trained weights of a model. Gradients gather on the masters as backward passes run.

    embeddings  names of weights that are no matrices for Muon, whatever their shape: embeddings and heads
    scale       what a loss must be multiplied by before its backward; the masters' gradients are free of it
    """

    def __init__(self, model: nn.Module, settings: Optim, embeddings: Iterable[str] = ()) -> None:
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.scale = FLOAT16_SCALE if any(w.dtype == torch.float16 for w in self.weights.values()) else 1.0
        self.masters = {name: _master(weight) for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            if self.masters[name] is weight:
                if self.scale != 1.0:
                    cast(Any, weight).register_hook(self._unscaled)
            else:
                cast(Any, weight).register_post_accumulate_grad_hook(_gatherer(self.masters[name], self.scale))
        matrices = {name for name, weight in self.weights.items() if weight.dim() >= 2}
        for_muon = {name for name in matrices if self.weights[name].dim() == 2} - set(embeddings)
        for_muon = for_muon if settings.optimizer == "muon" else set()
        self.parts: list[torch.optim.Optimizer] = []
        if for_muon:
            self.parts.append(
                Muon(
                    [master for name, master in self.masters.items() if name in for_muon],
                    weight_decay=settings.weight_decay,
                )
            )
        rest = [
            {"params": group, "weight_decay": decay}
            for decay, group in (
                (settings.weight_decay, [m for n, m in self.masters.items() if n in matrices - for_muon]),
                (0.0, [m for n, m in self.masters.items() if n not in matrices]),
            )
            if group
        ]
        if rest:
            self.parts.append(torch.optim.AdamW(rest, betas=settings.betas, fused=True))
        self.clip = settings.clip

    def _unscaled(self, gradient: Tensor) -> Tensor:
        return gradient / self.scale

    def norm(self) -> Tensor:
        """Norm of the whole gathered gradient."""
        return torch.nn.utils.get_total_norm([m.grad for m in self.masters.values() if m.grad is not None])

    def step(self, lr: float, norm: Tensor) -> None:
        """Move the weights by the gathered gradient, clipped, and forget it."""
        masters = list(self.masters.values())
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(masters, self.clip, norm)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
            part.zero_grad()
        with torch.no_grad():
            for name, weight in self.weights.items():
                if self.masters[name] is not weight:
                    weight.copy_(self.masters[name])

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on, by name: the master of each weight and what the optimisers keep beside it."""
        kept = {f"{name}|weight": master.detach() for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for part in self.parts:
                kept |= {f"{name}|{key}": value for key, value in part.state.get(master, {}).items()}
        return {key: value.contiguous() for key, value in kept.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, master in self.masters.items():
            master.copy_(state[f"{name}|weight"])
            self.weights[name].copy_(master)
            part = next(p for p in self.parts for group in p.param_groups if any(m is master for m in group["params"]))
            kept = {key.rpartition("|")[2]: value for key, value in state.items() if key.rpartition("|")[0] == name}
            part.state[master] = {key: value.to(master.device) for key, value in kept.items() if key != "weight"}


def _master(weight: nn.Parameter) -> nn.Parameter:
    wide = weight.dtype in (torch.float32, torch.float64)
    return weight if wide else nn.Parameter(weight.detach().float())


def _gatherer(master: nn.Parameter, scale: float) -> Callable[[Tensor], None]:
    """Adds a half-precision weight's gradient to its master as soon as it is complete, and frees it."""

    def gather(weight: Tensor) -> None:
        assert weight.grad is not None
        gradient = weight.grad.float()
        if scale != 1.0:
            gradient /= scale
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        weight.grad = None

    return gather
