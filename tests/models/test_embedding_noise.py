"""Noise on embeddings: as large as each row's length says, there in training only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bottega.batch import Example, Row
from bottega.models.embedding_noise import EmbeddingNoise, row_lengths
from bottega.packing import pack


def row(*tokens: int) -> Row:
    ids = np.array(tokens)
    return Row(ids, np.array([len(ids) - 1]), ids[:1], np.ones(1, np.float32))


def test_a_shared_token_has_the_length_of_its_longest_row() -> None:
    rows = [row(1, 2, 3, 4, 5, 6), row(1, 2, 3, 7), row(9, 8, 7), row(1, 2, 3, 4, 4)]
    batch = pack([Example("here", tuple(rows))], min_shared=2)
    found = row_lengths(batch.nodes, len(batch.tokens) + 2)
    told = dict(zip(zip(batch.position.tolist(), batch.tokens.tolist(), strict=True), found.tolist(), strict=False))
    assert [told[place] for place in [(0, 1), (2, 3), (3, 4), (4, 5), (4, 4), (3, 7), (0, 9)]] == [6, 6, 6, 6, 5, 4, 3]
    assert found[-2:].tolist() == [1, 1]


@pytest.mark.parametrize("packed", [True, False])
def test_the_scale_of_noise_is_that_of_the_paper(packed: bool) -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(10, 64)
    noise = EmbeddingNoise([embedding], alpha=5.0)
    ids = torch.zeros(1, 200, dtype=torch.long)
    if packed:
        noise.lengths = torch.tensor([[50] * 50 + [150] * 150])
    with torch.no_grad():
        drawn = embedding(ids)
    apart = (drawn - nn.functional.embedding(ids, embedding.weight.detach()))[0]
    for part, length in ((apart[:50], 50), (apart[50:], 150)):
        most = 5.0 / ((length if packed else 200) * 64) ** 0.5
        assert 0.98 * most < part.abs().max() <= most
        assert part.std() == pytest.approx(most / 3**0.5, rel=0.05)
    assert torch.equal(embedding.eval()(ids), nn.functional.embedding(ids, embedding.weight))
