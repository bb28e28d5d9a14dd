"""Attention on CUDA by PyTorch's own FlashAttention over sequences of different lengths (Dao 2023, arXiv 2307.08691).

A node of the tree is a sequence of queries, and its path one of keys: of what the kernel takes the queries to be the
end. So keys and values that several nodes see stand there once for each, and are all that is ever repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from bottega.batch import Batch
from bottega.models.attention.mask import Style

WIDEST = 256
"""Width of a head that the kernels end at."""


@dataclass(frozen=True)
class _Sequences:
    """queries keys  [M + 1] int32, where each sequence begins, and the end of the last
    longest          (queries, keys) of one sequence
    places           [S] which tokens the keys are; None where they stand as the tokens do
    own              [T] where among the keys a token is itself
    others           (where among them it is seen by nodes below its own, which token that is)
    """

    queries: Tensor
    keys: Tensor
    longest: tuple[int, int]
    places: Tensor | None
    own: Tensor
    others: tuple[Tensor, Tensor]


class FlashLayout:
    """Rows of one kind, causal or read both ways, in half precision, with plain or windowed attention and dropout."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def takes(self, query: Tensor, value: Tensor, style: Style) -> bool:
        """Whether this can compute it."""
        plain = style.softcap is None and style.sinks is None and style.near is None
        width = query.shape[-1]
        fits = width == value.shape[-1] and width % 8 == 0 and width <= WIDEST
        return plain and fits and query.dtype in (torch.bfloat16, torch.float16) and self.causal is not None

    @cached_property
    def causal(self) -> bool | None:
        """Whether tokens see their past, or their whole row; None where some do this and some that."""
        nodes, real = self.batch.nodes, int(self.batch.nodes.end[-1])
        first = self.batch.first[:real].cpu().numpy()
        if (first == np.arange(real)).all():
            return True
        return False if (first == np.repeat(nodes.start, nodes.end - nodes.start)).all() else None

    @cached_property
    def sequences(self) -> _Sequences:
        """A sequence for each node, and one of all padding, which sees itself."""
        nodes, length = self.batch.nodes, len(self.batch.tokens)
        padding = np.arange(int(nodes.end[-1]), length)
        paths = [nodes.path(node) for node in range(len(nodes))] + ([padding] if len(padding) else [])
        sizes = [*(nodes.end - nodes.start).tolist(), *([len(padding)] if len(padding) else [])]
        lengths = [len(path) for path in paths]
        starts = list(accumulate(lengths, initial=0))
        own = np.concatenate([np.arange(end - size, end) for end, size in zip(starts[1:], sizes, strict=True)])
        places = np.concatenate(paths)
        others = np.setdiff1d(np.arange(len(places)), own, assume_unique=True)
        shared = len(places) > length
        on = self.batch.tokens.device
        return _Sequences(
            torch.tensor(list(accumulate(sizes, initial=0)), dtype=torch.int32, device=on),
            torch.tensor(starts, dtype=torch.int32, device=on),
            (max(sizes), max(lengths)),
            torch.from_numpy(places).to(on) if shared else None,
            torch.from_numpy(own).to(on),
            (torch.from_numpy(others).to(on), torch.from_numpy(places[others]).to(on)),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: Style) -> Tensor:
        laid = self.sequences
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        if laid.places is not None:
            key, value = (cast(Tensor, cast(Any, _Spread.apply)(x, laid)) for x in (key, value))
        apply = cast(Any, _Flash.apply)
        return cast(Tensor, apply(query, key, value, laid, style, bool(self.causal)))[None]


class _Spread(torch.autograd.Function):
    """[T, g, D] → [S, g, D]: each node's path; what several saw gets the sum of their gradients, in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, laid: _Sequences) -> Tensor:
        assert laid.places is not None
        ctx.laid = laid
        return x.index_select(0, laid.places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), laid = gradients, ctx.laid
        where, tokens = laid.others
        total = g.index_select(0, laid.own).float()
        return total.index_add_(0, tokens, g.index_select(0, where).float()).to(g.dtype), None


class _Flash(torch.autograd.Function):
    """[T, h, D], [S, g, D], [S, g, D] → [T, h, D]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, laid: _Sequences, style: Style, causal: bool
    ) -> Tensor:
        most = -1 if style.window is None else style.window - 1
        ctx.how = {"scale": style.scaling, "window_size_left": most, "window_size_right": 0 if causal else most}
        ctx.given = (laid.queries, laid.keys, *laid.longest, style.dropout, causal)
        found = torch.ops.aten._flash_attention_forward(query, key, value, *ctx.given, False, **ctx.how)
        out, total, state, unused = found[:4]
        ctx.save_for_backward(query, key, value, out, total, state, unused)
        return cast(Tensor, out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total, state, unused = ctx.saved_tensors
        with _strictly():
            found = torch.ops.aten._flash_attention_backward(
                gradients[0].contiguous(), query, key, value, out, total, *ctx.given, state, unused, **ctx.how
            )
        return *found, None, None, None


@contextmanager
def _strictly() -> Iterator[None]:
    """Inside, algorithms that are to be deterministic are: this one only warns that it is not where others may warn."""
    wanted, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(wanted, warn_only=warns)
