"""A module in the place of another, and what is trained of tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bottega.adapters import StandIn
from bottega.adapters._trained_tokens import TokenEmbedding


def test_what_it_lacks_is_asked_of_the_original() -> None:
    words = nn.Embedding(5, 3, padding_idx=1)
    there = StandIn(words)
    assert (there.weight is words.weight, there.padding_idx, there.original is words) == (True, 1, True)
    with pytest.raises(AttributeError, match="nothing"):
        _ = there.nothing


def test_what_is_trained_is_a_copy() -> None:
    start = torch.randn(2, 3, requires_grad=True)
    embedding = TokenEmbedding(nn.Embedding(5, 3), start)
    with torch.no_grad():
        embedding.trained.add_(1)
    torch.testing.assert_close(embedding.trained - 1, start)
    assert [name for name, _ in embedding.named_parameters()] == ["trained", "original.weight"]
