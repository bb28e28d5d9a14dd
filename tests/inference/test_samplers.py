"""Sampling a token: the filters are those of transformers, and draws follow the distribution."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from transformers.generation import logits_process as theirs

from bottega.inference.row import uniform_numbers
from bottega.inference.samplers import BLOCK, EXCLUDED, NO_TOKEN, filter_logits, greedy_tokens, sample_tokens
from bottega.sampling import Sampling

LOGITS = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) * 3
SEEN = torch.randint(0, 50, (6, 7), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("settings", "processors"),
    [
        ({"temperature": 0.7}, [theirs.TemperatureLogitsWarper(0.7)]),
        ({"temperature": 1.0, "top_k": 5}, [theirs.TopKLogitsWarper(5)]),
        ({"temperature": 1.0, "top_k": 500}, [theirs.TopKLogitsWarper(500)]),
        ({"temperature": 1.0, "top_p": 0.8}, [theirs.TopPLogitsWarper(0.8)]),
        ({"temperature": 1.0, "top_p": 0.01}, [theirs.TopPLogitsWarper(0.01)]),
        ({"temperature": 1.0, "min_p": 0.1}, [theirs.MinPLogitsWarper(0.1)]),
        ({"temperature": 1.0, "min_p": 1.0}, [theirs.MinPLogitsWarper(1.0)]),
        ({"temperature": 1.0, "repetition_penalty": 1.3}, [theirs.RepetitionPenaltyLogitsProcessor(1.3)]),
        ({"repetition_penalty": 1.3}, [theirs.RepetitionPenaltyLogitsProcessor(1.3)]),
        (
            {"temperature": 1.4, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 0.8},
            [
                theirs.RepetitionPenaltyLogitsProcessor(0.8),
                theirs.TemperatureLogitsWarper(1.4),
                theirs.TopKLogitsWarper(20),
                theirs.TopPLogitsWarper(0.9),
                theirs.MinPLogitsWarper(0.05),
            ],
        ),
    ],
)
def test_filters_are_those_of_transformers(settings: dict[str, Any], processors: list[Any]) -> None:
    expected = LOGITS.clone()
    for processor in processors:
        expected = processor(SEEN, expected)
    seen = torch.zeros(LOGITS.shape, dtype=torch.bool).scatter(1, SEEN, True)
    ours = filter_logits(LOGITS.clone(), seen, Sampling(**settings))
    torch.testing.assert_close(ours.softmax(-1), expected.softmax(-1), rtol=0, atol=1e-6)
    assert torch.equal(ours == EXCLUDED, expected == EXCLUDED)


def test_draws_follow_the_distribution() -> None:
    """Chi-square over the draws of 500 continuations; the limit is passed once in 10,000 times."""
    logits = filter_logits(LOGITS[:1], None, Sampling(temperature=1.0, top_k=12))
    share = logits.softmax(-1)[0].double()
    streams = [uniform_numbers(0, (7, 8), number) for number in range(500)]
    chances = [chance for stream in streams for chance in islice(stream, 60)]
    drawn = sample_tokens(logits.expand(len(chances), -1), torch.tensor(chances, dtype=torch.float64))
    counts, expected = torch.bincount(drawn, minlength=50), share * len(chances)
    assert counts[share == 0].sum() == 0
    kept = expected > 0
    assert int(kept.sum()) == 12
    chi_square = float(((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum())
    assert chi_square < 37.4  # 11 degrees of freedom


@pytest.mark.parametrize("chance", [0.0, 0.5, 1 - 2**-53])
def test_a_draw_never_takes_a_filtered_token(chance: float) -> None:
    logits = torch.full((1, 50), EXCLUDED)
    logits[0, [3, 17]] = 0.0
    assert sample_tokens(logits, torch.tensor([chance], dtype=torch.float64)).item() in (3, 17)


def test_a_draw_is_the_inverse_of_the_cumulative_distribution() -> None:
    """Over more tokens than are added up together, and each row by its own number."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(64, 2 * BLOCK + 100, generator=generator, dtype=torch.float64)
    chance = torch.rand(64, generator=generator, dtype=torch.float64)
    wanted = torch.searchsorted(logits.softmax(-1).cumsum(-1), chance[:, None], right=True).squeeze(1)
    assert torch.equal(sample_tokens(logits, chance), wanted)


def test_no_token_is_drawn_where_logits_are_not_finite() -> None:
    logits = torch.zeros(4, 10)
    logits[0, 3], logits[1, 3], logits[2] = torch.nan, torch.inf, EXCLUDED
    tokens = sample_tokens(logits, torch.full((4,), 0.55, dtype=torch.float64))
    assert tokens.tolist() == [NO_TOKEN, NO_TOKEN, NO_TOKEN, 5]
    logits[3, 7] = 1.0
    assert greedy_tokens(logits).tolist() == [NO_TOKEN, NO_TOKEN, NO_TOKEN, 7]


def test_greedy_logits_are_left_alone_by_filters() -> None:
    settings = Sampling(temperature=0, top_k=1, top_p=0.1, min_p=0.9)
    assert torch.equal(filter_logits(LOGITS, None, settings), LOGITS)
    sampled = Sampling(temperature=0.5)
    assert filter_logits(LOGITS.bfloat16(), None, sampled).dtype == torch.float32


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 1e-300, 5e-324])
def test_the_lowest_temperatures_are_greedy(temperature: float) -> None:
    logits = torch.tensor([[3.0, 40.0, 7.0], [-5.0, -1.0, -1e4]])
    filtered = filter_logits(logits, None, Sampling(temperature=temperature))
    assert sample_tokens(filtered, torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist() == [1, 1]


@pytest.mark.parametrize("switch", ["0", "1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_first_of_the_likeliest_is_greedy(dtype: torch.dtype, switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In PyTorch and in C++, with a vocabulary that is no multiple of anything."""
    monkeypatch.setenv("BOTTEGA_NATIVE", switch)
    logits = torch.randn(40, 1003, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = logits.max(-1).indices
    logits[0, [17, 900, 1002]] = 50
    logits[1, [1001, 1002]] = 50
    logits[2, :] = -torch.inf
    logits[2, 77] = -3
    logits[3, :] = -torch.inf
    logits[4, 500], logits[5, 1002], logits[6, 3] = torch.nan, torch.nan, torch.inf
    expected[:7] = torch.tensor([17, 1001, 77, *[NO_TOKEN] * 4])
    assert torch.equal(greedy_tokens(logits), expected)
