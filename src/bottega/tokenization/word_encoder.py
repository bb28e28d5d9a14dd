"""Texts → rows with one prediction a word, for tagging; each word is read at one of its tokens."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import takewhile
from typing import Any, TypeAlias

import numpy as np

from bottega.batch import Ints, Row
from bottega.records import Unusable
from bottega.tokenization import unicode_words
from bottega.tokenization.length_limit import LengthLimit
from bottega.tokenization.special_tokens import SpecialTokens
from bottega.tokenization.text_encoder import TextEncoder

# Start and end character of each word of a text.
WordOffsets: TypeAlias = list[tuple[int, int]]


class WordEncoder:
    """Encodes texts for a model that classifies words.

    Words are what the tokenizer splits a text into before it looks for pieces. Where the tokenizer does not split,
    they are the words and signs of `unicode_words`.
    """

    def __init__(
        self, encoder: TextEncoder, special_tokens: SpecialTokens, limit: LengthLimit, *, both_ways: bool
    ) -> None:
        self._encoder, self._special_tokens, self._limit, self.both_ways = encoder, special_tokens, limit, both_ways

    def encode(self, where: str, text: str) -> tuple[Row, WordOffsets]:
        """The row of a text, cut where it is too long, and its words; every label is 0."""
        encoding = self._encoder.encode(text)
        if len(encoding.ids) > self._limit.max_length:
            self._limit.check(where, len(encoding.ids))
            self._limit.tally.truncated += 1
            encoding = self._encoder.encode_truncated(text)
        at, words = self._locate_words(encoding, text)
        return self._row(np.array(encoding.ids), at), words

    def encode_windows(self, text: str) -> tuple[list[Row], WordOffsets]:
        """Overlapping rows of a text of any length, and its words; the rows' predictions in turn are the words'.

        Each word is read in the row that has most context on both sides of it.
        """
        encoding = self._encoder.encode(text)
        ids, (at, words) = np.array(encoding.ids), self._locate_words(encoding, text)
        if len(ids) <= self._limit.max_length:
            return [self._row(ids, at)], words
        before, after = self._special_tokens.frame
        inner = self._special_tokens.remove_frame(ids)
        room = max(self._limit.max_length - len(before) - len(after), 1)
        # Windows advance by half their length; the words in the middle half of a window are read there.
        step = max(room // 2, 1)
        count = -(-max(len(inner) - room, 0) // step) + 1
        window = ((at - len(before) - room // 4) // step).clip(0, count - 1)  # [n] the window each word is read in
        parts = ((start, at[window * step == start] - start) for start in np.unique(window * step).tolist())
        rows = [
            self._row(self._special_tokens.add_frame(inner[start : start + room]), inside) for start, inside in parts
        ]
        return rows, words

    def _row(self, ids: Ints, at: Ints) -> Row:
        return Row(ids, at, np.zeros_like(at), np.ones(len(at), np.float32), self.both_ways)

    def _locate_words(self, encoding: Any, text: str) -> tuple[Ints, WordOffsets]:
        """(the token each word is read at, the offsets of each word).

        A word is read at its first token by an encoder, and at its last by a decoder, which has seen all of it there.
        """
        at, words, previous = list[int](), WordOffsets(), None
        unicode_offsets = None if self._splits_words else unicode_words.word_offsets(text, signs=True)
        inside_words = unicode_words.inner_positions(text)
        for token, (word, (start, stop)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
            # A byte-level token may begin with the space before its word.
            start += len(text[start:stop]) - len(text[start:stop].lstrip())
            if word is None or start >= stop:
                continue
            if unicode_offsets is not None:
                word = bisect_right(unicode_offsets, (start, len(text))) - 1
                stop = min(stop, unicode_offsets[word][1])
            # Some tokenizers end a word at a combining mark: what follows inside the same word is joined to it.
            if word == previous or (words and start in inside_words and words[-1][1] == start):
                words[-1] = (words[-1][0], max(words[-1][1], stop))
                at[-1] = at[-1] if self.both_ways else token
            else:
                words.append((start, stop))
                at.append(token)
            previous = word
        if not words:
            raise Unusable("no words")
        # A tokenizer that strips accents leaves the marks out of a word's offsets.
        return np.array(at), [(start, stop + _count_marks(text, stop)) for start, stop in words]

    @cached_property
    def _splits_words(self) -> bool:
        """Whether the tokenizer splits a text at spaces before it looks for pieces."""
        words = self._encoder.encode("a b").word_ids
        return len({word for word in words if word is not None}) > 1


def _count_marks(text: str, start: int) -> int:
    """Count the combining marks from `start` on, which belong to the letter before."""
    return sum(1 for _ in takewhile(unicode_words.is_combining_mark, text[start:]))
