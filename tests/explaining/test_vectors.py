"""Token embeddings: what is near is near in the vectors themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bottega
from bottega.explaining.vectors import TokenVectors
from making import make_model


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> TokenVectors:
    return TokenVectors(make_model(tmp_path_factory.mktemp("models") / "base"))


def test_neighbours_are_those_of_the_whole_space(vectors: TokenVectors) -> None:
    vector, own = vectors.vector("cat")
    (nearest, cosine), *_ = vectors.neighbours("cat", 5)
    others = [id for id in range(len(vectors.matrix)) if id not in {token.id for token in own}]
    norms = np.linalg.norm(vectors.matrix[others], axis=1) * np.linalg.norm(vector)
    exact = vectors.matrix[others] @ vector / norms
    assert nearest.id == others[int(exact.argmax())]
    assert cosine == pytest.approx(float(exact.max()), abs=1e-5)


def test_an_analogy_finds_what_was_put_there(vectors: TokenVectors) -> None:
    a, b, c = (vectors.vector(word)[0] for word in ("cat", "dog", "tree"))
    target = vectors.vocabulary.encode("mat")[-1]
    vectors.matrix[target] = 10 * (a - b + c)
    vectors._unit = vectors.matrix / np.maximum(np.linalg.norm(vectors.matrix, axis=1, keepdims=True), 1e-12)
    assert vectors.analogy("cat", "dog", "tree")[0][0].id == target


def test_the_ends_of_an_axis(vectors: TokenVectors) -> None:
    low, high = vectors.axis("cat", "dog", 3)
    assert max(value for _, value in low) <= min(value for _, value in high)


def test_a_projection_keeps_most_of_the_variance_first(vectors: TokenVectors) -> None:
    found = vectors.project(2)
    places = np.array(found["places"])
    assert places.shape == (len(found["tokens"]), 2)
    assert places.var(axis=0)[0] >= places.var(axis=0)[1]
    assert 0 < sum(found["variance"]) <= 1


def test_drift_names_what_moved(vectors: TokenVectors, tmp_path: Path) -> None:
    same = TokenVectors(make_model(tmp_path / "one"))
    other = TokenVectors(make_model(tmp_path / "two"))
    assert same.drift(other)["same"]
    moved = 7
    other.matrix[moved] *= -1
    other._unit[moved] *= -1
    drift = same.drift(other)
    assert (drift["moved"][0][0].id, round(drift["moved"][0][1], 4)) == (moved, -1.0)
    with pytest.raises(bottega.DataError, match="cannot be compared"):
        same.drift(TokenVectors(make_model(tmp_path / "wide", hidden_size=24, head_dim=6)))
