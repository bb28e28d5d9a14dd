"""Which known texts are nearest to a text: by the words they share, or by the vectors of an encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bottega.inference.embedder import Embedder
from bottega.tokenization.unicode_words import terms

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

BATCH_SIZE = 1024
"""Texts compared at once."""


class Retriever(Protocol):
    def nearest(self, texts: Sequence[str], count: int) -> tuple[Ints, Floats]:
        """[n, k] numbers of the texts known that are nearest, the nearest first, no text twice, and how near each is.

        One that nothing says is near is drawn by chance, and its nearness is 0.
        """


class Bm25Retriever:
    """By BM25 (Robertson and Zaragoza 2009), of `bm25s`: rare words in common count for more.

    The words are our own: bm25s would drop digits, single letters and English stop words, and take a run of Chinese for
    one word.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        # It sets itself to tell every step, whatever the program wants.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self.count = len(texts)
        self._index: Any = bm25s.BM25()
        words = [terms(text) for text in texts]
        self._known = frozenset(word for one in words for word in one)
        if self._known:  # bm25s divides by the mean length
            self._index.index(words, show_progress=False)

    def nearest(self, texts: Sequence[str], count: int) -> tuple[Ints, Floats]:
        count = min(count, self.count)
        numbers, nearness = np.zeros((len(texts), count), np.int64), np.zeros((len(texts), count), np.float32)
        # A word that no text has counts for nothing, and bm25s refuses a query of such words alone.
        asked = [[word for word in terms(text) if word in self._known] for text in texts]
        places = [place for place, words in enumerate(asked) if words]
        if places and count:
            found, score = self._index.retrieve([asked[place] for place in places], k=count, show_progress=False)
            numbers[places], nearness[places] = found, score
        for place, text in enumerate(texts):
            near = nearness[place] > 0
            others = np.setdiff1d(self._order(text), numbers[place][near], assume_unique=True)
            numbers[place] = [*numbers[place][near], *others[: count - near.sum()]]
            nearness[place] = [*nearness[place][near], *[0.0] * int(count - near.sum())]
        return numbers, nearness

    def _order(self, text: str) -> Ints:
        """The texts in an order drawn for one that is looked for, the same every time."""
        return np.random.default_rng(crc32(ascii(text).encode())).permutation(self.count)


class DenseRetriever:
    """By the cosine of the vectors of an encoder."""

    def __init__(self, texts: Sequence[str], embedder: Embedder) -> None:
        self.embedder = embedder
        self._known = embedder.embed(texts)

    def nearest(self, texts: Sequence[str], count: int) -> tuple[Ints, Floats]:
        count = min(count, len(self._known))
        cosine = np.concatenate(
            [
                self.embedder.embed(texts[start : start + BATCH_SIZE]) @ self._known.T
                for start in range(0, len(texts), BATCH_SIZE)
            ]
        )
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
        return order, np.take_along_axis(cosine, order, 1)
