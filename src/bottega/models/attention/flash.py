"""Attention on CUDA by PyTorch's own FlashAttention over sequences of different lengths (Dao 2023, arXiv 2307.08691).

A node of the tree is a sequence of queries, and its path one of keys: of what the kernel takes the queries to be the
end. So keys and values that several nodes see stand there once for each, and are all that is ever repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from bottega.batch import Batch
from bottega.models.attention.mask import AttentionOptions

MAX_HEAD_WIDTH, MIN_CAPABILITY = 256, (8, 0)
"""Width of a head that the kernels end at, and the generation of cards that they begin with."""


@dataclass(frozen=True)
class _VarlenSequences:
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

    def takes(self, query: Tensor, value: Tensor, style: AttentionOptions) -> bool:
        """Whether this can compute it."""
        plain = style.softcap is None and style.sinks is None and style.near is None
        width = query.shape[-1]
        fits = width == value.shape[-1] and width % 8 == 0 and width <= MAX_HEAD_WIDTH
        half = query.dtype in (torch.bfloat16, torch.float16)
        known = query.is_cuda and torch.cuda.get_device_capability(query.device) >= MIN_CAPABILITY
        return plain and fits and half and known and self.causal is not None

    @cached_property
    def causal(self) -> bool | None:
        """Whether tokens see their past, or their whole row; None where some do this and some that."""
        nodes, real = self.batch.nodes, int(self.batch.nodes.end[-1])
        first = self.batch.first[:real].cpu().numpy()
        if (first == np.arange(real)).all():
            return True
        return False if (first == np.repeat(nodes.start, nodes.end - nodes.start)).all() else None

    @cached_property
    def sequences(self) -> _VarlenSequences:
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
        return _VarlenSequences(
            torch.tensor(list(accumulate(sizes, initial=0)), dtype=torch.int32, device=on),
            torch.tensor(starts, dtype=torch.int32, device=on),
            (max(sizes), max(lengths)),
            torch.from_numpy(places).to(on) if shared else None,
            torch.from_numpy(own).to(on),
            (torch.from_numpy(others).to(on), torch.from_numpy(places[others]).to(on)),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: AttentionOptions) -> Tensor:
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        apply = cast(Any, _Flash.apply)
        return cast(Tensor, apply(query, key, value, self.sequences, style, bool(self.causal)))[None]


def _gather_paths(x: Tensor, laid: _VarlenSequences) -> Tensor:
    """[T, g, D] → [S, g, D]: each node's path."""
    return x if laid.places is None else x.index_select(0, laid.places)


def _sum_shared_gradients(g: Tensor, laid: _VarlenSequences) -> Tensor:
    """The gradient [T, g, D] of what was spread: what several saw gets the sum of theirs, in float32."""
    if laid.places is None:
        return g
    where, tokens = laid.others
    total = g.index_select(0, laid.own).float()
    return total.index_add_(0, tokens, g.index_select(0, where).float()).to(g.dtype)


class _Flash(torch.autograd.Function):
    """[T, h, D], [T, g, D], [T, g, D] → [T, h, D]; of paths nothing is kept, they are spread again."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        laid: _VarlenSequences,
        style: AttentionOptions,
        causal: bool,
    ) -> Tensor:
        out, *kept = _flash_forward(query, _gather_paths(key, laid), _gather_paths(value, laid), laid, style, causal)
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.given = laid, style, causal
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        laid, *_ = ctx.given
        to_query, to_key, to_value = _flash_backward(
            gradients[0].contiguous(), query, _gather_paths(key, laid), _gather_paths(value, laid), kept, *ctx.given
        )
        return to_query, _sum_shared_gradients(to_key, laid), _sum_shared_gradients(to_value, laid), None, None, None


def _flash_forward(
    query: Tensor, key: Tensor, value: Tensor, laid: _VarlenSequences, style: AttentionOptions, causal: bool
) -> tuple[Tensor, ...]:
    """(what is attended to, and what the backward needs beside it)."""
    given, how = _kernel_arguments(laid, style, causal)
    found = torch.ops.aten._flash_attention_forward(query, key, value, *given, False, **how)
    return tuple(found[:4])


def _flash_backward(
    g: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kept: Sequence[Tensor],
    laid: _VarlenSequences,
    style: AttentionOptions,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value; `kept` is what `_forward` gave."""
    (out, total, state, unused), (given, how) = kept, _kernel_arguments(laid, style, causal)
    with _strict_determinism():
        found = torch.ops.aten._flash_attention_backward(g, query, key, value, out, total, *given, state, unused, **how)
    return cast("tuple[Tensor, Tensor, Tensor]", tuple(found))


def _kernel_arguments(
    laid: _VarlenSequences, style: AttentionOptions, causal: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the kernels are called with: which sequences, and what of each token is seen."""
    most = -1 if style.window is None else style.window - 1
    how = {"scale": style.scaling, "window_size_left": most, "window_size_right": 0 if causal else most}
    return (laid.queries, laid.keys, *laid.longest, style.dropout, causal), how


@contextmanager
def _strict_determinism() -> Iterator[None]:
    """Inside, algorithms that are to be deterministic are: this one only warns that it is not where others may warn."""
    wanted, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(wanted, warn_only=warns)
