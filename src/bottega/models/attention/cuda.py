"""Attention on CUDA: the fastest of three back ends that supports what a layer needs."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from bottega.batch import Batch
from bottega.models.attention.blocks import BlockLayout
from bottega.models.attention.flash import FlashLayout
from bottega.models.attention.flex import FlexLayout
from bottega.models.attention.mask import AttentionOptions


class CudaLayout:
    """FlashAttention where it is supported, else FlexAttention, else blocks as on a CPU."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.flash, self.flex = FlashLayout(batch), FlexLayout(batch)

    @cached_property
    def blocks(self) -> BlockLayout:
        # Only on demand: it is laid out on the CPU, which waits for the device.
        return BlockLayout(self.batch)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        for layout in (self.flash, self.flex):
            if layout.supports(query, value, options):
                return layout.attend(query, key, value, options)
        return self.blocks.attend(query, key, value, options)
