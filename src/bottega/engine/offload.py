"""Activation offload: tensors saved for the backward wait in host memory (vDNN, Rhu et al. 2016, arXiv 1602.08124).

The accelerator then holds the activations of one layer instead of all. They are copied out while the forward goes on,
and copied back when the backward asks for them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

# Smaller tensors stay on the device: copying them costs more time than they are worth in memory.
MIN_BYTES = 1 << 20


class HostCopy(NamedTuple):
    """A tensor's copy in host memory, and the device it came from."""

    tensor: Tensor
    device: torch.device


class Offload(saved_tensors_hooks):
    """Inside the `with` block, tensors that autograd saves are moved to host memory; weights and buffers stay.

    min_bytes  the size from which a tensor is moved
    """

    def __init__(self, model: nn.Module, *, min_bytes: int = MIN_BYTES) -> None:
        self.min_bytes = min_bytes
        # By storage, since autograd also saves views of weights, such as a transpose.
        self.resident = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        on_cuda = next(model.parameters()).is_cuda
        # A stream of its own, so that copies run beside the forward's kernels.
        self.stream = torch.cuda.Stream() if on_cuda else None  # type: ignore[no-untyped-call]
        super().__init__(self._to_host, self._to_device)

    def _to_host(self, tensor: Tensor) -> Tensor | HostCopy:
        stays = tensor.untyped_storage().data_ptr() in self.resident
        if stays or tensor.numel() * tensor.element_size() < self.min_bytes:
            return tensor
        if self.stream is None:
            # On a CPU nothing is saved by it; tests compare gradients with and without there.
            return HostCopy(tensor.detach().clone(), tensor.device)
        # Only pinned memory is copied to asynchronously.
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        self.stream.wait_stream(torch.cuda.current_stream())  # the tensor may not be computed yet
        with torch.cuda.stream(self.stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self.stream)  # its memory must not be reused before it is copied
        return HostCopy(host, tensor.device)

    def _to_device(self, saved: Tensor | HostCopy) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if self.stream is not None:
            # The copy to the host may still be running.
            torch.cuda.current_stream().wait_stream(self.stream)
        return saved.tensor.to(saved.device, non_blocking=True)
