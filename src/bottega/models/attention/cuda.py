"""Attention on CUDA: the fastest of three that can compute what a layer asks."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from bottega.batch import Batch
from bottega.models.attention.blocks import BlockLayout
from bottega.models.attention.flash import FlashLayout
from bottega.models.attention.flex import FlexLayout
from bottega.models.attention.mask import AttentionOptions


class CudaLayout:
    """FlashAttention where it can, FlexAttention where that can, and else blocks as on a CPU."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.flash, self.flex = FlashLayout(batch), FlexLayout(batch)

    @cached_property
    def blocks(self) -> BlockLayout:
        return BlockLayout(self.batch)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: AttentionOptions) -> Tensor:
        for layout in (self.flash, self.flex):
            if layout.takes(query, value, style):
                return layout.attend(query, key, value, style)
        return self.blocks.attend(query, key, value, style)
