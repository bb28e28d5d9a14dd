"""A loss of pairs as tutorials have it (Hadsell et al. 2006)."""

import torch
from torch import nn


class ContrastiveLoss(nn.Module):
    def __init__(self, margin=1.0):
        super().__init__()
        self.margin = margin

    def forward(self, output1, output2, label):
        distance = nn.functional.pairwise_distance(output1, output2)
        return torch.mean(label * distance**2 + (1 - label) * (self.margin - distance).clamp(min=0) ** 2)
