"""Every random choice comes from a seed derived from (run seed, purpose, numbers): a resume needs no saved state."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one purpose: `derive(recipe.seed, "dropout", step, part)`."""
    text = "/".join(map(str, (seed, purpose, *numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
