"""A prefix cache gives back what was stored, whatever was stored and forgotten in between."""

from __future__ import annotations

import numpy as np
import torch

from bottega.inference.prefix_cache import PrefixCache
from bottega.models.attention.cached_text import CachedText, CacheForm
from bottega.packing import common_prefix_length


def text_of(tokens: list[int]) -> CachedText:
    """A text whose keys and values tell their tokens."""
    key = torch.tensor(tokens, dtype=torch.float32).view(1, -1, 1).expand(2, -1, 3)
    return CachedText(CacheForm.of([(key, key)]), [torch.stack([key, key + 1000])])


def found(cache: PrefixCache, tokens: list[int]) -> list[int]:
    """The tokens that are found of a text, as its stored keys tell them."""
    parts = cache.find(tokens)
    keys = [int(key) for part in parts for key in part.layer(0)[0][1, :, 2]]
    assert all(torch.equal(part.layer(0)[1], part.layer(0)[0] + 1000) for part in parts)
    return keys


def test_the_longest_beginning_is_found() -> None:
    cache = PrefixCache()
    cache.store([1, 2, 3, 4, 5], text_of([1, 2, 3, 4, 5]))
    cache.store([1, 2, 3, 9], text_of([1, 2, 3, 9]))
    assert cache.tokens == 6
    assert found(cache, [1, 2, 3, 4, 7]) == [1, 2, 3, 4]
    assert found(cache, [1, 2, 3, 9, 9]) == [1, 2, 3, 9]
    assert found(cache, [2]) == []


def test_the_end_of_a_text_is_stored_behind_its_beginning() -> None:
    cache = PrefixCache()
    cache.store([1, 2, 3], text_of([1, 2, 3]))
    cache.store([1, 2, 3, 4, 5], text_of([3, 4, 5]), start=2)
    assert found(cache, [1, 2, 3, 4, 5]) == [1, 2, 3, 4, 5]
    # Its beginning is not stored, so that it could not be found.
    cache.store([7, 8, 9], text_of([9]), start=2)
    assert found(cache, [7, 8, 9]) == []


def test_what_was_used_last_is_kept_longest() -> None:
    cache = PrefixCache()
    for first in (10, 20, 30):
        cache.store([1, first, 2], text_of([1, first, 2]))
    assert cache.tokens == 7
    found(cache, [1, 10])
    held = cache.find([1, 20, 2])
    cache.shrink(5)
    assert found(cache, [1, 30, 2]) == [1]
    cache.shrink(3)
    assert (found(cache, [1, 10, 2]), found(cache, [1, 20, 2])) == ([1], [1, 20, 2])
    cache.shrink(0)
    assert (cache.tokens, found(cache, [1, 20])) == (0, [])
    assert held[-1].layer(0)[0][0, :, 0].tolist() == [20, 2]


def test_random_texts_against_a_plain_search() -> None:
    draw, cache = np.random.default_rng(0), PrefixCache()
    stored: list[list[int]] = []
    for _ in range(300):
        tokens = draw.integers(0, 3, draw.integers(1, 9)).tolist()
        expected = max((common_prefix_length(np.array(tokens), np.array(other)) for other in stored), default=0)
        assert found(cache, tokens) == tokens[:expected]
        cache.store(tokens, text_of(tokens))
        stored.append(tokens)
    # As many tokens as there are different beginnings.
    assert cache.tokens == len({tuple(text[:end]) for text in stored for end in range(1, len(text) + 1)})
