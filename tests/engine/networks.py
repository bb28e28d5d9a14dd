"""Small networks to optimize, and an update of each."""

from __future__ import annotations

import torch
from torch import nn

from bottega.engine.optimizer import Optimizer


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)).to(dtype)


def step(network: nn.Module, optimizer: Optimizer, lr: float = 1e-2, parts: int = 1) -> torch.Tensor:
    for part in torch.arange(8).reshape(parts, -1):
        (network(part % 7).float().pow(2).sum() / 8).backward()
    norm = optimizer.norm()
    optimizer.step(lr, norm)
    return norm


class Lookup(nn.Module):
    """An embedding of 40 rows, of which a step reads few, and of one the projection back where tied."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(40, 6, padding_idx=3), nn.Linear(6, 40, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(ids).tanh())


def backward_of_lookups(network: nn.Module, number: int, scale: float = 1.0) -> None:
    """Two micro-batches, in which tokens come twice, and padding."""
    for part in range(2):
        ids = torch.tensor([3, 5, 5, 7 + number % 9, 2 * number + part])
        (scale * network(ids).float().pow(2).sum()).backward()
