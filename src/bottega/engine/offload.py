"""What a forward keeps for its backward, in the host's memory meanwhile (Rhu et al. 2016, vDNN, arXiv 1602.08124).

An accelerator then holds the activations of one layer instead of all. They go out while the forward computes on, and
come back when the backward asks for them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

LEAST = 1 << 20
"""Bytes below which a tensor stays: it costs more to send than to keep."""


class Sent(NamedTuple):
    """A tensor in the host's memory, and where it was."""

    host: Tensor
    device: torch.device


class Offload(saved_tensors_hooks):
    """Inside, what operations on `model` save for their backward is sent away; weights, which stay anyway, are not.

    least  bytes below which a tensor stays
    """

    def __init__(self, model: nn.Module, *, least: int = LEAST) -> None:
        self.least = least
        self.staying = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
        on_cuda = next(model.parameters()).is_cuda
        self.side = torch.cuda.Stream() if on_cuda else None  # type: ignore[no-untyped-call]
        super().__init__(self._send, self._fetch)

    def _send(self, tensor: Tensor) -> Tensor | Sent:
        stays = tensor.untyped_storage().data_ptr() in self.staying
        if stays or tensor.numel() * tensor.element_size() < self.least:
            return tensor
        if self.side is None:
            return Sent(tensor.detach().clone(), tensor.device)
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self.side)  # its memory is not given away before it is copied
        return Sent(host, tensor.device)

    def _fetch(self, sent: Tensor | Sent) -> Tensor:
        if isinstance(sent, Tensor):
            return sent
        if self.side is not None:
            torch.cuda.current_stream().wait_stream(self.side)
        return sent.host.to(sent.device, non_blocking=True)
