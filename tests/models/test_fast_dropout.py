"""Dropout with a cheap mask: its rate, its mean and its gradient."""

from __future__ import annotations

import pytest
import torch

from bottega.models.fast_dropout import apply_keep_mask, draw_seed, dropout, dropped_levels, make_keep_mask


def test_dropout_drops_its_fraction_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.full((1003, 997), 3.0, requires_grad=True)
    out = dropout(x, 0.3)
    out.sum().backward()
    out = out.detach()
    assert float((out == 0).float().mean()) == pytest.approx(0.3, abs=2e-3)
    assert float(out.mean()) == pytest.approx(3.0, abs=0.01)
    torch.testing.assert_close(x.grad, out / 3, msg="the backward drops what the forward dropped")
    # Four numbers come from one draw; none follows from its neighbour.
    pairs = (out == 0).flatten()[: 4 * 249_000].view(-1, 4).float()
    assert torch.corrcoef(pairs.T).fill_diagonal_(0).abs().max() < 0.01
    torch.manual_seed(0)
    assert torch.equal(out, dropout(x.detach(), 0.3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_kept_numbers_are_scaled_and_dropped_ones_are_zero_whatever_they_were(dtype: torch.dtype) -> None:
    kept = make_keep_mask(7, torch.Size([3, 5]), dropped_levels(0.5), torch.device("cpu"))
    assert set(kept.unique().tolist()) == {-1, 0}
    x = torch.full((3, 5), 3.0, dtype=dtype)
    x[kept == 0] = torch.nan
    out = apply_keep_mask(x, kept, dropped_levels(0.5))
    assert torch.equal(out, torch.where(kept == 0, 0.0, 6.0).to(dtype))


def test_a_mask_depends_on_its_seed_alone() -> None:
    size, device = torch.Size([13]), torch.device("cpu")
    first = make_keep_mask(1, size, 30_000, device)
    assert torch.equal(make_keep_mask(1, size, 30_000, device), first)
    assert not torch.equal(make_keep_mask(2, size, 30_000, device), first)
    assert make_keep_mask(1, size, 0, device).all()
    torch.manual_seed(3)
    seeds = {draw_seed() for _ in range(5)}
    assert len(seeds) == 5
    torch.manual_seed(3)
    assert draw_seed() in seeds
