"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), a chunk of the weights at a time.

The updates are those of `torch.optim.AdamW`, made with its own fused kernel. A chunk fits into the processor's cache
from the widening of its gradients to the rounding of its weights, and no other chunk needs float32 copies meanwhile.

The bfloat16 weights on a CPU are updated in one pass in C++, where that may be used.

An embedding's gradient may be sparse: nonzero in the rows of the batch's tokens only. Without weight decay, a row that
never had a gradient has zero moments and does not move, so only the rows with a gradient so far are read and written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bottega.engine.master_weights import (
    ALL,
    MasterWeight,
    Selection,
    at_least_float32,
    select,
    write_back,
)
from bottega.models import native

# Elements of a chunk, by device type. On a CPU, a step in chunks of 2^20 took 0.81 of the time of an undivided one;
# chunks of 2^16 were slower than none.
CHUNK_SIZE = {"cpu": 1 << 20, "cuda": 1 << 26}

# Torch's default for Adam.
EPSILON = 1e-8

MOMENTS = ("exp_avg", "exp_avg_sq")

# Above this fraction of an embedding's rows all rows are updated, which is then faster. Of 30,522 × 384, updating a
# tenth of the rows took 5 ms, a fifth 12 ms, all 14 to 24 ms; of 49,152 × 576: 21, 58, and 53 to 77 ms.
MAX_SPARSE_FRACTION = 0.15


@dataclass(frozen=True, eq=False)
class WeightSlice:
    """Some elements of a weight, and the optimizer state of the whole weight."""

    weight: MasterWeight
    selection: Selection
    state: dict[str, Tensor]


class AdamW:
    """AdamW over a group of weights with one weight decay.

    state  for each weight: `step`, `exp_avg` and `exp_avg_sq`, as torch's optimizer names them; for weights with sparse
           gradients also `seen`, a flag per row that has had a gradient
    """

    def __init__(
        self,
        weights: Sequence[MasterWeight],
        betas: tuple[float, float],
        weight_decay: float,
        sparse: Collection[str] = (),
        *,
        native: bool = False,
    ) -> None:
        self.betas, self.weight_decay, self.native = betas, weight_decay, native
        self.state = {weight.name: _initial_state(weight.parameter, sparse=weight.name in sparse) for weight in weights}
        self.weights = {weight.name: weight for weight in weights}
        self.chunks = list(_make_chunks(weights, self.state))

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], lr: float, divisor: Tensor | None) -> None:
        """Update the group's weights; their gradients are removed from `gradients` and divided by `divisor`."""
        dense = {name: gradients.pop(name) for name in self.state if name in gradients}
        for name in list(dense):
            self.state[name]["step"] += 1
            sparse = self._sparse_update(name, dense[name])
            if sparse is None:
                # The kernel reads flat memory: a sparse gradient, or a transposed one, has to be laid out first.
                dense[name] = dense[name].to_dense().contiguous()
            else:
                del dense[name]
                self._update([sparse[0]], [sparse[1]], lr, divisor)
        self._update_natively(dense, lr, divisor)
        for chunk in self.chunks:
            slices = [piece for piece in chunk if piece.weight.name in dense]
            if slices:
                widened = [at_least_float32(select(dense[piece.weight.name], piece.selection)) for piece in slices]
                self._update(slices, widened, lr, divisor)

    def _update(
        self, slices: Sequence[WeightSlice], gradients: list[Tensor], lr: float, divisor: Tensor | None
    ) -> None:
        masters = [piece.weight.read(piece.selection) for piece in slices]
        moments = {key: [select(piece.state[key], piece.selection) for piece in slices] for key in MOMENTS}
        torch._fused_adamw_(
            masters,
            gradients,
            moments["exp_avg"],
            moments["exp_avg_sq"],
            [],
            [piece.state["step"] for piece in slices],
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
            # Divides the gradients inside the kernel, where they are read anyway.
            grad_scale=divisor,
        )
        for index, piece in enumerate(slices):
            piece.weight.write(masters[index], piece.selection)
            for key in MOMENTS:
                write_back(piece.state[key], piece.selection, moments[key][index])

    def _update_natively(self, gradients: dict[str, Tensor], lr: float, divisor: Tensor | None) -> None:
        """Update what fits the operators in C++, all of it in one call; its gradients are removed."""
        names = [name for name in gradients if self.native and self._fits_native(name, gradients[name])]
        if not names:
            return
        masters, states = [self.weights[name].tensors for name in names], [self.state[name] for name in names]
        torch.ops.bottega.update_adamw(
            [self.weights[name].parameter.detach() for name in names],
            [tensors.get("low", tensors["weight"]) for tensors in masters],
            *([state[key] for state in states] for key in MOMENTS),
            [gradients.pop(name) for name in names],
            [int(state["step"]) for state in states],
            lr,
            *self.betas,
            self.weight_decay,
            EPSILON,
            1.0 if divisor is None else float(divisor),
        )

    def _fits_native(self, name: str, gradient: Tensor) -> bool:
        # A float32 weight without a copy gains nothing: torch's kernel is one pass as well.
        weight = self.weights[name].parameter
        return weight.dtype == torch.bfloat16 and gradient.dtype in native.DTYPES and weight.is_cpu

    def _sparse_update(self, name: str, gradient: Tensor) -> tuple[WeightSlice, Tensor] | None:
        """(the rows of a weight that move, their gradient, flat); None if all rows are to be updated."""
        weight, state = self.weights[name], self.state[name]
        if "seen" not in state:
            return None
        seen = state["seen"]  # [V]
        if not gradient.is_sparse:
            # A dense gradient tells nothing about its rows, so from now on all of them count.
            seen.fill_(True)
            return None
        own_rows = gradient.indices()[0]  # [rows with a gradient], ascending since it is coalesced
        seen[own_rows] = True
        rows = seen.nonzero()[:, 0]  # [rows with a gradient now or earlier], which still have moments
        if len(rows) > MAX_SPARSE_FRACTION * len(seen):
            return None
        values = gradient.values().new_zeros(len(rows), *weight.parameter.shape[1:])  # [rows, H]
        values.index_copy_(0, torch.searchsorted(rows, own_rows), gradient.values())
        return WeightSlice(weight, rows, state), values.view(-1)


def _initial_state(parameter: Tensor, *, sparse: bool) -> dict[str, Tensor]:
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    moments = {name: torch.zeros_like(parameter, dtype=dtype).detach() for name in MOMENTS}
    seen = {"seen": torch.zeros(len(parameter), dtype=torch.bool, device=parameter.device)} if sparse else {}
    # The fused kernel takes the step count as a tensor on the weight's device.
    return {"step": torch.zeros((), device=parameter.device), **moments, **seen}


def _make_chunks(weights: Sequence[MasterWeight], state: dict[str, dict[str, Tensor]]) -> Iterator[list[WeightSlice]]:
    """All weights in chunks of equal size: large weights are cut, small ones share a chunk."""
    chunk, room = list[WeightSlice](), 0
    for weight in weights:
        start, end = 0, weight.parameter.numel()
        while start < end:
            if not room:
                if chunk:
                    yield chunk
                chunk, room = [], CHUNK_SIZE[weight.parameter.device.type]
            size = min(room, end - start)
            selection = slice(start, start + size) if size < end else ALL
            chunk.append(WeightSlice(weight, selection, state[weight.name]))
            start, room = start + size, room - size
    if chunk:
        yield chunk
