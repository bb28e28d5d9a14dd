"""Updates of one layer combined: the exact sum, the best of a smaller rank, TIES and DARE beside their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bottega.exporting._combination import CombineOptions, combine_updates, dare, ties
from bottega.models.low_rank import LowRankUpdate


def update(rank: int, seed: int, inputs: int = 7, outputs: int = 9) -> LowRankUpdate:
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(rank, inputs)), draw.normal(size=(outputs, rank))
    return LowRankUpdate(a.astype(np.float32), b.astype(np.float32), False)


UPDATES = [(0.5, update(2, 0)), (-1.5, update(3, 1))]


def exact() -> torch.Tensor:
    deltas = [weight * torch.from_numpy(one.b).double() @ torch.from_numpy(one.a).double() for weight, one in UPDATES]
    return torch.stack(deltas).sum(0)


def combined(method: str, **more: object) -> tuple[torch.Tensor, float, int]:
    """(b a, relative error, rank)."""
    found = combine_updates(UPDATES, CombineOptions(method, **more), torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    return found.b.double() @ found.a.double(), (found.error / found.norm) ** 0.5, len(found.a)


def test_cat_is_the_exact_sum() -> None:
    product, error, rank = combined("cat")
    torch.testing.assert_close(product, exact(), atol=1e-5, rtol=1e-5)
    assert rank == 5
    assert error < 1e-6


@pytest.mark.parametrize("rank", [1, 3])
def test_svd_is_the_best_of_its_rank(rank: int) -> None:
    product, error, found = combined("svd", rank=rank)
    u, s, v = torch.linalg.svd(exact())
    best = u[:, :rank] * s[:rank] @ v[:rank]
    torch.testing.assert_close(product, best, atol=1e-5, rtol=1e-5)
    assert found == rank
    assert error == pytest.approx(float(s[rank:].square().sum().sqrt() / s.square().sum().sqrt()), rel=1e-4)


def test_ties_keeps_the_largest_of_the_sign_that_most_weight_is_on() -> None:
    one, other = torch.tensor([[4.0, -3.0, 1.0, 0.0]]).double(), torch.tensor([[2.0, 5.0, -0.5, 0.1]]).double()
    found = ties([one, other], torch.tensor([1.0, 1.0]).double(), 0.5)
    # The two largest of each: (4, -3) and (2, 5). The first agree, of the second 5 wins over -3; where one is kept
    # alone it counts for both.
    torch.testing.assert_close(found, torch.tensor([[6.0, 10.0, 0.0, 0.0]]).double())


def test_dare_drops_entries_and_keeps_the_mean() -> None:
    delta = torch.ones(200, 200).double()
    found = dare([delta, delta], 0.25, torch.Generator().manual_seed(0))
    assert {round(value, 6) for value in found.unique().tolist()} == {0.0, 4.0, 8.0}
    assert float(found.mean()) == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("method", ["ties", "dare"])
def test_sparse_methods_keep_everything_at_full_density(method: str) -> None:
    product, error, _ = combined(method, density=1.0)
    if method == "dare":
        torch.testing.assert_close(product, exact(), atol=1e-4, rtol=1e-4)
        assert error < 1e-5
    else:
        assert error > 0.1, "entries of opposite signs are left out"


def test_an_error_is_that_of_what_was_written() -> None:
    product, error, rank = combined("ties", density=0.3, rank=2)
    assert rank == 2
    assert error == pytest.approx(float((product - exact()).norm() / exact().norm()), rel=1e-6)
