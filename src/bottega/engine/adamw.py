"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) a part of the weights at a time.

The same steps as `torch.optim.AdamW`, by its own fused kernel. A part is what a processor keeps at hand from the
widening of its gradients to the rounding of its weights; the other parts need no float32 copies meanwhile.

An embedding's gradient is one of few rows. What never had a gradient has no moments, and does not move where weights
do not decay: of such a weight only the rows seen so far are read and written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bottega.engine.master_weights import ALL, Trained, Where, put_back, taken, wide

PART = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Numbers in a part. On a CPU a step in parts of 2^20 took 0.81 of a step over all; 2^16 was slower than no parts."""

EPSILON = 1e-8

MOMENTS = ("exp_avg", "exp_avg_sq")

MANY = 0.15
"""Share of an embedding's rows from which all are moved: of 30,522 × 384 a tenth took 5 ms and a fifth 12 as rows, all
together 14 to 24; of 49,152 × 576 21, 58, and 53 to 77."""


@dataclass(frozen=True, eq=False)
class WeightSlice:
    """Some numbers of a weight, and what AdamW keeps beside the weight."""

    weight: Trained
    where: Where
    kept: dict[str, Tensor]


class AdamW:
    """state  of each weight: `step`, `exp_avg`, `exp_avg_sq`, as torch's optimiser names them; of those with gradients
    by rows also `seen`, which rows had one
    """

    def __init__(
        self,
        weights: Sequence[Trained],
        betas: tuple[float, float],
        weight_decay: float,
        by_rows: Collection[str] = (),
    ) -> None:
        self.betas, self.weight_decay = betas, weight_decay
        self.state = {one.name: _state(one.weight, by_rows=one.name in by_rows) for one in weights}
        self.weights = {one.name: one for one in weights}
        self.parts = list(_parts(weights, self.state))

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], lr: float, divisor: Tensor | None) -> None:
        """Take the weights' own gradients out of `gradients`, divide each by the divisor, and move."""
        own = {name: gradients.pop(name) for name in self.state if name in gradients}
        for name in list(own):
            self.state[name]["step"] += 1
            few = self._few(name, own[name])
            if few is None:
                own[name] = own[name].to_dense().contiguous()
            else:
                del own[name]
                self._move([few[0]], [few[1]], lr, divisor)
        for part in self.parts:
            pieces = [piece for piece in part if piece.weight.name in own]
            if pieces:
                given = [wide(taken(own[piece.weight.name], piece.where)) for piece in pieces]
                self._move(pieces, given, lr, divisor)

    def _move(self, pieces: Sequence[WeightSlice], gradients: list[Tensor], lr: float, divisor: Tensor | None) -> None:
        masters = [piece.weight.read(piece.where) for piece in pieces]
        moments = {key: [taken(piece.kept[key], piece.where) for piece in pieces] for key in MOMENTS}
        torch._fused_adamw_(
            masters,
            gradients,
            moments["exp_avg"],
            moments["exp_avg_sq"],
            [],
            [piece.kept["step"] for piece in pieces],
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
        )
        for number, piece in enumerate(pieces):
            piece.weight.write(masters[number], piece.where)
            for key in MOMENTS:
                put_back(piece.kept[key], piece.where, moments[key][number])

    def _few(self, name: str, gradient: Tensor) -> tuple[WeightSlice, Tensor] | None:
        """(the rows of a weight that move, their gradient); None where most or all of them do."""
        one, kept = self.weights[name], self.state[name]
        if "seen" not in kept:
            return None
        seen = kept["seen"]
        if not gradient.is_sparse:
            seen.fill_(True)
            return None
        given = gradient.indices()[0]
        seen[given] = True
        rows = seen.nonzero()[:, 0]
        if len(rows) > MANY * len(seen):
            return None
        own = gradient.values().new_zeros(len(rows), *one.weight.shape[1:])
        own.index_copy_(0, torch.searchsorted(rows, given), gradient.values())
        return WeightSlice(one, rows, kept), own.view(-1)


def _state(weight: Tensor, by_rows: bool) -> dict[str, Tensor]:
    dtype = torch.promote_types(weight.dtype, torch.float32)
    moments = {name: torch.zeros_like(weight, dtype=dtype).detach() for name in MOMENTS}
    seen = {"seen": torch.zeros(len(weight), dtype=torch.bool, device=weight.device)} if by_rows else {}
    return {"step": torch.zeros((), device=weight.device), **moments, **seen}


def _parts(weights: Sequence[Trained], state: dict[str, dict[str, Tensor]]) -> Iterator[list[WeightSlice]]:
    """Large weights cut, small ones together."""
    part, room = list[WeightSlice](), 0
    for one in weights:
        start, end = 0, one.weight.numel()
        while start < end:
            if not room:
                if part:
                    yield part
                part, room = [], PART[one.weight.device.type]
            size = min(room, end - start)
            part.append(WeightSlice(one, slice(start, start + size) if size < end else ALL, state[one.name]))
            start, room = start + size, room - size
    if part:
        yield part
