"""Attention on CUDA with PyTorch's FlashAttention for sequences of different lengths (Dao 2023, arXiv 2307.08691).

Each node of the prefix tree is one sequence of queries, and its path from the root the sequence of keys; the kernel
aligns the queries with the end of the keys, which is where a node's own tokens stand. Keys and values of a shared
prefix are therefore repeated once per node below it; nothing else is.
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

# The widest head the kernels support, and the lowest compute capability (Ampere).
MAX_HEAD_WIDTH, MIN_CAPABILITY = 256, (8, 0)


@dataclass(frozen=True)
class _VarlenSequences:
    """The node sequences as the kernel wants them. S = keys of all paths, one path after the other.

    query_starts, key_starts  [M + 1] int32: where each sequence begins, and the end of the last
    max_lengths               longest sequence of (queries, keys)
    key_index                 [S] the token of each key; None if keys are the tokens in their order
    own_index                 [T] where among the keys each token stands in the path of its own node
    shared                    (where keys stand that are seen from nodes further down, the token of each)
    """

    query_starts: Tensor
    key_starts: Tensor
    max_lengths: tuple[int, int]
    key_index: Tensor | None
    own_index: Tensor
    shared: tuple[Tensor, Tensor]


class FlashLayout:
    """Rows of one kind, all causal or all bidirectional, in half precision; full or windowed attention, and dropout."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def supports(self, query: Tensor, value: Tensor, options: AttentionOptions) -> bool:
        """Whether the kernels can compute this."""
        plain = options.softcap is None and options.sinks is None and options.relative_bias is None
        width = query.shape[-1]
        has_width = width == value.shape[-1] and width % 8 == 0 and width <= MAX_HEAD_WIDTH
        has_dtype = query.dtype in (torch.bfloat16, torch.float16)
        has_device = query.is_cuda and torch.cuda.get_device_capability(query.device) >= MIN_CAPABILITY
        return plain and has_width and has_dtype and has_device and self.causal is not None

    @cached_property
    def causal(self) -> bool | None:
        """True if tokens see their past, False if their whole row, None if the batch mixes both."""
        nodes, real_tokens = self.batch.nodes, int(self.batch.nodes.end[-1])
        # first[k] is the first query that sees key k: k itself if causal, the start of its node if bidirectional.
        first = self.batch.first[:real_tokens].cpu().numpy()
        if (first == np.arange(real_tokens)).all():
            return True
        return False if (first == np.repeat(nodes.start, nodes.end - nodes.start)).all() else None

    @cached_property
    def sequences(self) -> _VarlenSequences:
        """One sequence per node, and one for all padding, which sees itself."""
        nodes, length = self.batch.nodes, len(self.batch.tokens)
        padding = np.arange(int(nodes.end[-1]), length)
        paths = [nodes.path(node) for node in range(len(nodes))] + ([padding] if len(padding) else [])
        query_lengths = [*(nodes.end - nodes.start).tolist(), *([len(padding)] if len(padding) else [])]
        key_lengths = [len(path) for path in paths]
        key_starts = list(accumulate(key_lengths, initial=0))
        own_index = np.concatenate(  # [T]
            [np.arange(end - size, end) for end, size in zip(key_starts[1:], query_lengths, strict=True)]
        )
        key_index = np.concatenate(paths)  # [S]
        shared = np.setdiff1d(np.arange(len(key_index)), own_index, assume_unique=True)
        has_shared = len(key_index) > length
        device = self.batch.tokens.device
        return _VarlenSequences(
            torch.tensor(list(accumulate(query_lengths, initial=0)), dtype=torch.int32, device=device),
            torch.tensor(key_starts, dtype=torch.int32, device=device),
            (max(query_lengths), max(key_lengths)),
            torch.from_numpy(key_index).to(device) if has_shared else None,
            torch.from_numpy(own_index).to(device),
            (torch.from_numpy(shared).to(device), torch.from_numpy(key_index[shared]).to(device)),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, h, D], [T, g, D], [T, g, D]
        apply = cast(Any, _Flash.apply)
        return cast(Tensor, apply(query, key, value, self.sequences, options, bool(self.causal)))[None]


def _gather_paths(x: Tensor, sequences: _VarlenSequences) -> Tensor:
    """[T, g, D] → [S, g, D]: the tokens of each node's path."""
    return x if sequences.key_index is None else x.index_select(0, sequences.key_index)


def _sum_shared_gradients(gradient: Tensor, sequences: _VarlenSequences) -> Tensor:
    """[S, g, D] → [T, g, D]: the gradient of `_gather_paths`; a token's copies are added up in float32."""
    if sequences.key_index is None:
        return gradient
    shared_index, tokens = sequences.shared
    total = gradient.index_select(0, sequences.own_index).float()
    # Not scatter_add_: on CUDA index_add_ is the one that adds in a fixed order in deterministic mode.
    return total.index_add_(0, tokens, gradient.index_select(0, shared_index).float()).to(gradient.dtype)


class _Flash(torch.autograd.Function):
    """[T, h, D], [T, g, D], [T, g, D] → [T, h, D]. The gathered paths are not kept: the backward gathers them again."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sequences: _VarlenSequences,
        options: AttentionOptions,
        causal: bool,
    ) -> Tensor:
        path_key, path_value = _gather_paths(key, sequences), _gather_paths(value, sequences)
        out, *state = _flash_forward(query, path_key, path_value, sequences, options, causal)
        ctx.save_for_backward(query, key, value, out, *state)
        ctx.arguments = sequences, options, causal
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *saved = ctx.saved_tensors
        sequences, *_ = ctx.arguments
        path_key, path_value = _gather_paths(key, sequences), _gather_paths(value, sequences)
        d_query, d_key, d_value = _flash_backward(
            gradients[0].contiguous(), query, path_key, path_value, saved, *ctx.arguments
        )
        d_key, d_value = _sum_shared_gradients(d_key, sequences), _sum_shared_gradients(d_value, sequences)
        return d_query, d_key, d_value, None, None, None


def _flash_forward(
    query: Tensor, key: Tensor, value: Tensor, sequences: _VarlenSequences, options: AttentionOptions, causal: bool
) -> tuple[Tensor, ...]:
    """(output, log-sum-exp, random state, unused): the output, and what the backward needs."""
    arguments, keywords = _kernel_arguments(sequences, options, causal)
    results = torch.ops.aten._flash_attention_forward(query, key, value, *arguments, False, **keywords)
    return tuple(results[:4])  # the fifth is a debug mask


def _flash_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    saved: Sequence[Tensor],
    sequences: _VarlenSequences,
    options: AttentionOptions,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value; `saved` is what `_flash_forward` returned."""
    out, log_sum_exp, random_state, unused = saved
    arguments, keywords = _kernel_arguments(sequences, options, causal)
    with _strict_determinism():
        gradients = torch.ops.aten._flash_attention_backward(
            gradient, query, key, value, out, log_sum_exp, *arguments, random_state, unused, **keywords
        )
    return cast("tuple[Tensor, Tensor, Tensor]", tuple(gradients))


def _kernel_arguments(
    sequences: _VarlenSequences, options: AttentionOptions, causal: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments that forward and backward share."""
    # The kernel counts neighbours on each side, without the token itself; −1 is no limit.
    side = -1 if options.window is None else options.window - 1
    keywords = {"scale": options.scaling, "window_size_left": side, "window_size_right": 0 if causal else side}
    starts = (sequences.query_starts, sequences.key_starts)
    return (*starts, *sequences.max_lengths, options.dropout, causal), keywords


@contextmanager
def _strict_determinism() -> Iterator[None]:
    """Inside, deterministic mode is strict, if it is on.

    The kernel has a deterministic backward, but picks it only in strict mode: under `warn_only` it takes the other one
    and warns.
    """
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(enabled)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
