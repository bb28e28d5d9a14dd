"""Derived seeds: the same in every process and version, and different for every purpose."""

from __future__ import annotations

import torch

from bottega.seeding import derive


def test_seeds_stay_what_they_are() -> None:
    """Another value would change every trained weight."""
    assert derive(0, "dropout", 1, 2) == 8188508171012841840
    assert derive(0, "span") == 7636406898704983435
    assert derive(-3, "shuffle", 7) == 6659897157364058018


def test_every_part_counts() -> None:
    seeds = [derive(0, "a"), derive(1, "a"), derive(0, "b")]
    seeds += [derive(0, "a", 1), derive(0, "a", 1, 2), derive(0, "a", 2, 1), derive(0, "a", 12)]
    assert len(set(seeds)) == len(seeds)


def test_torch_takes_every_seed() -> None:
    seeds = [derive(0, "dropout", number) for number in range(1000)]
    assert 0 <= min(seeds) < max(seeds) < 2**63
    assert max(seeds) > 2**62, "63 bits are used"
    torch.Generator().manual_seed(max(seeds))
