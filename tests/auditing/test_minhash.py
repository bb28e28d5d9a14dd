"""Near duplicates: the pairs that are found are those of brute force, and bands miss hardly any."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bottega.auditing.minhash import MAX_CHARACTERS, MAX_GROUP, RECALL, NearDuplicateIndex, choose_bands, hash_shingles


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.95, 1.0])
def test_bands_propose_nearly_all_pairs_at_any_threshold(threshold: float) -> None:
    bands, depth = choose_bands(threshold)
    assert 1 - (1 - min(threshold, 0.99) ** depth) ** bands >= RECALL
    draw = np.random.default_rng(0)
    hits = draw.random((2000, bands, depth)) < threshold
    assert hits.all(2).any(1).mean() > 0.99


def test_near_duplicate_pairs_equal_those_of_brute_force() -> None:
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    known = ["".join(draw.choices(letters, k=6)) for _ in range(300)]
    texts = [" ".join(draw.choices(known, k=30)) for _ in range(60)]
    for text in texts[:30]:
        words = text.split()
        for place in draw.sample(range(30), draw.randrange(1, 8)):
            words[place] = draw.choice(known)
        texts.append(" ".join(words))
    index = NearDuplicateIndex(0.7)
    for number, text in enumerate(texts):
        index.add(7 * number, text)
    sets = [{text[start : start + 5] for start in range(len(text) - 4)} for text in texts]
    wanted = {
        (7 * one, 7 * other)
        for one in range(len(texts))
        for other in range(one + 1, len(texts))
        if len(sets[one] & sets[other]) >= 0.7 * len(sets[one] | sets[other])
    }
    assert {(one, other) for one, other, _ in index.pairs()} == wanted
    assert len(wanted) >= 10


def test_shingles_are_those_of_the_words() -> None:
    """Case, punctuation and the composition of accents make no difference; a word does."""
    text = hash_shingles("Perché no, it was late.")
    assert text.tolist() == hash_shingles("PERCHE\u0301  NO it was (late)").tolist()
    assert text.tolist() != hash_shingles("perche no it was late").tolist()
    assert (np.diff(text.astype(np.int64)) > 0).all(), "sorted, without repetitions"
    assert len(hash_shingles("aaaaaaaaaa")) == 1
    assert len(hash_shingles("abc")) == len(hash_shingles("")) == 1
    assert hash_shingles("👍").tolist() != hash_shingles("👎").tolist()


def test_only_the_beginning_of_a_book_is_compared() -> None:
    start = "ab " * (MAX_CHARACTERS // 3 + 1)
    assert hash_shingles(start + "x").tolist() == hash_shingles(start + "another end").tolist()


def test_a_large_group_of_equal_texts_is_linked_without_comparing_every_pair() -> None:
    index, count = NearDuplicateIndex(0.9), 3 * MAX_GROUP
    for row in range(count):
        index.add(row, "the quick brown fox jumps over the lazy dog")
    pairs = {(one, other) for one, other, similarity in index.pairs() if similarity == 1}
    assert len(pairs) < count * (count - 1) / 4
    linked = {0}
    for one, other in sorted(pairs):
        linked |= {other} if one in linked else set()
    assert linked == set(range(count))


def test_a_single_text_has_no_pair() -> None:
    index = NearDuplicateIndex(0.7)
    index.add(0, "the cat")
    assert list(index.pairs()) == []
