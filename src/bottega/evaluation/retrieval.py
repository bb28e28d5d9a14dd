"""Search for the nearest of known texts: by BM25, or by the embeddings of an encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bottega.inference.embedder import Embedder
from bottega.tokenization.unicode_words import search_terms

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

# Queries compared at once: it bounds the [n, texts] matrix of similarities.
BATCH_SIZE = 1024


class Retriever(Protocol):
    """A search index over known texts."""

    def nearest(self, texts: Sequence[str], count: int) -> tuple[Ints, Floats]:
        """([n, K] indices of the nearest known texts, [n, K] their similarities), the nearest first, no text twice.

        Where nothing is similar, texts are picked at random, with a similarity of 0.
        """


class Bm25Retriever:
    """BM25 (Robertson and Zaragoza 2009) of the package `bm25s`: rare words in common count for more.

    Words are split by bottega: bm25s would drop digits, single letters and English stop words, and take a run of
    Chinese for one word.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        # bm25s sets the level of its own logger to DEBUG, whatever the program wants.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self.count = len(texts)
        self._index: Any = bm25s.BM25()
        words = [search_terms(text) for text in texts]
        self._vocabulary = frozenset(word for text_words in words for word in text_words)
        if self._vocabulary:  # bm25s divides by the mean length
            self._index.index(words, show_progress=False)

    def nearest(self, texts: Sequence[str], count: int) -> tuple[Ints, Floats]:
        """The texts with the highest BM25 score."""
        count = min(count, self.count)
        indices, similarity = np.zeros((len(texts), count), np.int64), np.zeros((len(texts), count), np.float32)
        # A word that no text has scores nothing, and bm25s refuses a query of such words alone.
        queries = [[word for word in search_terms(text) if word in self._vocabulary] for text in texts]
        searchable = [row for row, words in enumerate(queries) if words]
        if searchable and count:
            words = [queries[row] for row in searchable]
            indices[searchable], similarity[searchable] = self._index.retrieve(words, k=count, show_progress=False)
        # bm25s fills up with texts of score 0 in their order: always the same few. They are replaced at random.
        for row, text in enumerate(texts):
            similar = similarity[row] > 0
            others = np.setdiff1d(self._random_order(text), indices[row][similar], assume_unique=True)
            indices[row] = [*indices[row][similar], *others[: count - similar.sum()]]
            similarity[row] = [*similarity[row][similar], *[0.0] * int(count - similar.sum())]
        return indices, similarity

    def _random_order(self, text: str) -> Ints:
        # Seeded by the query, so that every query gets other texts, and the same ones every time.
        return np.random.default_rng(crc32(ascii(text).encode())).permutation(self.count)


class DenseRetriever:
    """The cosine similarity of an encoder's embeddings."""

    def __init__(self, texts: Sequence[str], embedder: Embedder) -> None:
        self.embedder = embedder
        self._known = embedder.embed(texts)  # [texts, H], normalized

    def nearest(self, texts: Sequence[str], count: int) -> tuple[Ints, Floats]:
        """The texts with the highest cosine similarity."""
        count = min(count, len(self._known))
        batches = (texts[start : start + BATCH_SIZE] for start in range(0, len(texts), BATCH_SIZE))
        cosine = np.concatenate([self.embedder.embed(batch) @ self._known.T for batch in batches])  # [n, texts]
        # Stable, so that of equal texts the first is taken on every machine.
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
        return order, np.take_along_axis(cosine, order, 1)
