"""AdamW with its moments in 8 bits (Dettmers et al. 2022, arXiv 2110.02861): two bytes a weight instead of eight.

Each block of 256 elements has one float32 scale, its largest moment. Codes lie the closer the nearer they are to zero:
a moment is the fourth power of its code for the mean, and the eighth for the mean of squares. Where the gradients of a
block differed by 10⁴, weights moved 8 % otherwise than with AdamW's moments; with second and fourth powers, 44 %.

The mean of squares changes by a thousandth in an update, less than from one code to the next: rounded to the nearest
it would stay where it is. So it is rounded up or down at random, with the chances that keep its mean. Which way depends
on the number of the update only, so that a resumed run rounds as an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bottega.engine.adamw import CHUNK_SIZE, EPSILON
from bottega.engine.master_weights import MasterWeight, at_least_float32, select

# Elements that share a scale.
BLOCK = 256

# Smaller weights keep their moments in float32: biases and norms are few, and the more sensitive.
MIN_ELEMENTS = 4096

# Keeps the scale of a block of zeros from dividing by zero.
TINY = 1e-30

# A step through the noise that is coprime to its length, so that updates repeat none soon.
STRIDE = 104_729


class AdamW8bit:
    """AdamW over a group of weights with one weight decay.

    state  for each weight: `step`; `exp_avg` (int8) and `exp_avg_sq` (uint8) as codes, and `exp_avg_scale` and
           `exp_avg_sq_scale`, one for each block
    """

    def __init__(self, weights: Sequence[MasterWeight], betas: tuple[float, float], weight_decay: float) -> None:
        self.betas, self.weight_decay = betas, weight_decay
        self.weights = {weight.name: weight for weight in weights}
        self.state = {weight.name: _initial_state(weight.parameter) for weight in weights}
        self.noise = dict[torch.device, Tensor]()

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], lr: float, divisor: Tensor | None) -> None:
        """Update the group's weights; their gradients are removed from `gradients` and divided by `divisor`."""
        for name, weight in self.weights.items():
            if name in gradients:
                self.state[name]["step"] += 1
                gradient = gradients.pop(name).to_dense().contiguous()
                for chunk in _chunks(weight.parameter):
                    self._update(weight, chunk, at_least_float32(select(gradient, chunk)), lr, divisor)

    def _update(self, weight: MasterWeight, chunk: slice, gradient: Tensor, lr: float, divisor: Tensor | None) -> None:
        state, master = self.state[weight.name], weight.read(chunk)
        blocks = slice(chunk.start // BLOCK, -(-chunk.stop // BLOCK))
        codes = state["exp_avg"][chunk], state["exp_avg_sq"][chunk]
        scales = state["exp_avg_scale"][blocks], state["exp_avg_sq_scale"][blocks]
        mean, squares = _decode(codes[0], scales[0]), _decode(codes[1], scales[1])
        torch._fused_adamw_(
            [master],
            [gradient.to(master.dtype)],
            [mean],
            [squares],
            [],
            [state["step"]],
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
        )
        weight.write(master, chunk)
        fractions = _in_blocks(mean, scales[0])
        codes[0].copy_(fractions.abs_().sqrt_().sqrt_().mul_(127).round_().copysign_(mean))
        roots = _in_blocks(squares, scales[1]).sqrt_().sqrt_().sqrt_().mul_(255)
        roots.add_(self._noise(int(state["step"]), len(roots), roots.device)).floor_()
        # Never rounded to zero: an update is divided by its root.
        codes[1].copy_(roots.clamp_(1, 255))

    def _noise(self, step: int, count: int, device: torch.device) -> Tensor:
        """[count] numbers from 0 up to 1, the same for a step."""
        size = CHUNK_SIZE[device.type]
        if device not in self.noise:
            self.noise[device] = torch.rand(2 * size, generator=torch.Generator().manual_seed(0)).to(device)
        start = step * STRIDE % size
        return self.noise[device][start : start + count]


def _initial_state(parameter: Tensor) -> dict[str, Tensor]:
    count, device = parameter.numel(), parameter.device
    blocks = -(-count // BLOCK)
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return {
        "step": torch.zeros((), device=device),
        "exp_avg": torch.zeros(count, dtype=torch.int8, device=device),
        "exp_avg_sq": torch.zeros(count, dtype=torch.uint8, device=device),
        "exp_avg_scale": torch.zeros(blocks, dtype=dtype, device=device),
        "exp_avg_sq_scale": torch.zeros(blocks, dtype=dtype, device=device),
    }


def _chunks(parameter: Tensor) -> Iterator[slice]:
    """Slices of the flat elements that begin where a block does."""
    size, count = CHUNK_SIZE[parameter.device.type], parameter.numel()
    yield from (slice(start, min(start + size, count)) for start in range(0, count, size))


def _decode(codes: Tensor, scales: Tensor) -> Tensor:
    """[n], [blocks] → [n]: fourth powers of signed codes, eighth powers of others."""
    fractions = codes.to(scales.dtype).div_(torch.iinfo(codes.dtype).max)
    squares = fractions.square()
    fourth = squares.square_()
    powers = fourth.copysign_(fractions) if codes.dtype == torch.int8 else fourth.square_()
    return powers.mul_(_of_elements(scales, len(codes)))


def _in_blocks(values: Tensor, scales: Tensor) -> Tensor:
    """[n] each divided by the largest of its block, which is written to `scales` [blocks]."""
    padded = torch.nn.functional.pad(values.abs(), (0, len(scales) * BLOCK - len(values)))
    torch.amax(padded.view(-1, BLOCK), 1, out=scales)
    return values.div(_of_elements(scales.clamp(min=TINY), len(values)))


def _of_elements(scales: Tensor, count: int) -> Tensor:
    return scales.repeat_interleave(BLOCK)[:count]
