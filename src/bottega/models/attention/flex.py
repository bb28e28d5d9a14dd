"""Attention on CUDA."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from bottega.batch import Batch
from bottega.models.attention.dense import DenseLayout
from bottega.models.attention.mask import Style, visible


class FlexLayout:
    """FlexAttention over the interval mask; its backward runs only on CUDA.

    A padded batch is whole blocks. Attention dropout and sinks have no form in FlexAttention; they go the dense way.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.dense = DenseLayout(batch)
        self.masks: dict[int | None, Any] = {}

    def mask(self, window: int | None) -> Any:
        if window not in self.masks:
            self.masks[window] = self._mask(window)
        return self.masks[window]

    def _mask(self, window: int | None) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        def seen(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return visible(self.batch, q, k, window)

        length = len(self.batch.tokens)
        return create_block_mask(seen, None, None, length, length, device=str(self.batch.tokens.device))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: Style) -> Tensor:
        if style.dropout or style.sinks is not None:
            return self.dense.attend(query, key, value, style)
        cap = style.softcap

        def capped(score: Tensor, *_: Tensor) -> Tensor:
            return cap * torch.tanh(score / cap) if cap is not None else score

        out: Tensor = _flex(query.is_cuda)(
            query,
            key,
            value,
            score_mod=capped if cap is not None else None,
            block_mask=self.mask(style.window),
            scale=style.scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out.transpose(1, 2)


@cache
def _flex(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
