"""Seeds for random choices, derived from (run seed, purpose, numbers): a resume needs no stored generator state."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one purpose, such as `derive(recipe.seed, "dropout", step, part)`.

    The text of `purpose` and the order of `numbers` decide the result: changing them changes every trained weight.
    """
    # A hash, because Python's own differs from process to process. 63 bits fit a signed int64, which torch takes.
    text = "/".join(map(str, (seed, purpose, *numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
