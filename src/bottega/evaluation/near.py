"""Which known texts are nearest to a text: by the words they share, or by the vectors of an encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bottega.embedder import Embedder

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

BLOCK = 1024
"""Texts compared at once."""


class Index(Protocol):
    def nearest(self, texts: Sequence[str], count: int) -> tuple[Ints, Floats]:
        """[n, k] numbers of the texts known that are nearest, the nearest first, and how near each is."""


class Words:
    """By BM25 (Robertson and Zaragoza 2009), of `bm25s`: rare words in common count for more."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        # It sets itself to tell every step, whatever the program wants.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self.count = len(texts)
        self._index = bm25s.BM25()
        self._index.index(self._words(texts), show_progress=False)

    def nearest(self, texts: Sequence[str], count: int) -> tuple[Ints, Floats]:
        count = min(count, self.count)
        # A word that no text has counts for nothing, and bm25s refuses a query of such words alone.
        known = self._index.vocab_dict
        numbers, nearness = np.zeros((len(texts), count), np.int64), np.zeros((len(texts), count), np.float32)
        asked = [[word for word in words if word in known] for words in self._words(texts)]
        places = [place for place, words in enumerate(asked) if words]
        if places:
            found, score = self._index.retrieve([asked[place] for place in places], k=count, show_progress=False)
            numbers[places], nearness[places] = found, score
        return numbers, nearness

    @staticmethod
    def _words(texts: Sequence[str]) -> list[list[str]]:
        import bm25s

        found: list[list[str]] = bm25s.tokenize(
            list(texts), token_pattern=r"\w+", stopwords=None, return_ids=False, show_progress=False
        )
        return found


class Vectors:
    """By the cosine of the vectors of an encoder."""

    def __init__(self, texts: Sequence[str], embedder: Embedder) -> None:
        self.embedder = embedder
        self._known = embedder.embed(texts)

    def nearest(self, texts: Sequence[str], count: int) -> tuple[Ints, Floats]:
        count = min(count, len(self._known))
        cosine = np.concatenate(
            [self.embedder.embed(texts[start : start + BLOCK]) @ self._known.T for start in range(0, len(texts), BLOCK)]
        )
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
        return order, np.take_along_axis(cosine, order, 1)
