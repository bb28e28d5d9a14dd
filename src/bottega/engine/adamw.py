"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) a part of the weights at a time.

The same steps as `torch.optim.AdamW`, by its own fused kernel. A part is what a processor keeps at hand from the
widening of its gradients to the rounding of its weights; the other parts need no float32 copies meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bottega.engine.trained import Trained, wide

PART = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Numbers in a part. On a CPU a step in parts of 2^20 took 0.81 of a step over all; 2^16 was slower than no parts."""

EPSILON = 1e-8


@dataclass(frozen=True, eq=False)
class Piece:
    """Numbers of one weight that stand together, and what AdamW keeps beside them; all flat."""

    weight: Trained
    span: slice
    mean: Tensor
    square: Tensor
    step: Tensor


class AdamW:
    """state  of each weight: `step`, `exp_avg`, `exp_avg_sq`, as torch's optimiser names them"""

    def __init__(self, weights: Sequence[Trained], betas: tuple[float, float], weight_decay: float) -> None:
        self.betas, self.weight_decay = betas, weight_decay
        self.state = {one.name: _state(one.weight) for one in weights}
        self.parts = list(_parts(weights, self.state))

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], lr: float, divisor: Tensor | None) -> None:
        """Take the weights' own gradients out of `gradients`, divide each by the divisor, and move."""
        moved = [name for name in self.state if name in gradients]
        for name in moved:
            self.state[name]["step"] += 1
        for part in self.parts:
            pieces = [piece for piece in part if piece.weight.name in gradients]
            if pieces:
                own = [wide(gradients[piece.weight.name].reshape(-1)[piece.span]) for piece in pieces]
                self._move(pieces, own, lr, divisor)
        for name in moved:
            del gradients[name]

    def _move(self, pieces: Sequence[Piece], gradients: list[Tensor], lr: float, divisor: Tensor | None) -> None:
        masters = [piece.weight.read(piece.span) for piece in pieces]
        torch._fused_adamw_(
            masters,
            gradients,
            [piece.mean for piece in pieces],
            [piece.square for piece in pieces],
            [],
            [piece.step for piece in pieces],
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
        )
        for piece, master in zip(pieces, masters, strict=True):
            piece.weight.write(master, piece.span)


def _state(weight: Tensor) -> dict[str, Tensor]:
    dtype = torch.promote_types(weight.dtype, torch.float32)
    moments = {name: torch.zeros_like(weight, dtype=dtype).detach() for name in ("exp_avg", "exp_avg_sq")}
    return {"step": torch.zeros((), device=weight.device), **moments}


def _parts(weights: Sequence[Trained], state: dict[str, dict[str, Tensor]]) -> Iterator[list[Piece]]:
    """Large weights cut, small ones together."""
    part, room = list[Piece](), 0
    for one in weights:
        kept, start, end = state[one.name], 0, one.weight.numel()
        while start < end:
            if not room:
                if part:
                    yield part
                part, room = [], PART[one.weight.device.type]
            size = min(room, end - start)
            span = slice(start, start + size)
            mean, square = (kept[key].view(-1)[span] for key in ("exp_avg", "exp_avg_sq"))
            part.append(Piece(one, span, mean, square, kept["step"]))
            start, room = start + size, room - size
    if part:
        yield part
