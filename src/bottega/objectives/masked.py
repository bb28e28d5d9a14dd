"""Masked language modelling (Devlin et al. 2019, arXiv 1810.04805): what stood at the places that were covered."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from bottega.batch import Example, Ints, Row
from bottega.objectives import HeadKind, Likelihood
from bottega.records import Record, Text
from bottega.seeding import derive

if TYPE_CHECKING:
    from bottega.tokenization.codec import Codec


class Masked(Likelihood):
    """Mean negative log-likelihood of a masked token, both of its sides seen.

    share            of the tokens that are predicted; never one the tokenizer adds
    mask             share of these that the mask token stands for
    random           share of them that another token, drawn at random, stands for; the rest stands as it is
    dynamic          other places each time a text is taken (Liu et al. 2019, arXiv 1907.11692), or always the same, as
                     validation has
    whole_words      all pieces of a word or none
    label_smoothing  share of the likelihood that is spread evenly over the vocabulary, in training only
    """

    reads: ClassVar[tuple[type, ...]] = (Text,)
    head: ClassVar[HeadKind] = "masked"
    can_split: ClassVar[bool] = True
    lr: ClassVar[tuple[float, float]] = (5e-4, 5e-4)

    kind: Literal["masked"] = "masked"
    share: float = Field(0.15, gt=0, lt=1)
    mask: float = Field(0.8, ge=0, le=1)
    random: float = Field(0.1, ge=0, le=1)
    dynamic: bool = True
    whole_words: bool = False

    @model_validator(mode="after")
    def _within_one(self) -> Masked:
        if self.mask + self.random > 1:
            raise ValueError("mask and random are shares of the same tokens, and more than 1 together")
        return self

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Text)
        return [(self._always(ids, codec),) for ids in codec.encode_passages(record)]

    def window_tokens(self, row: Row, codec: Codec) -> Ints:
        return codec.special_tokens.remove_frame(_original_tokens(row))

    def window_row(self, tokens: Ints, codec: Codec) -> Row | None:
        return (
            self._always(codec.special_tokens.add_frame(tokens), codec)
            if codec.special_tokens.is_text[tokens].any()
            else None
        )

    def augment(self, example: Example, codec: Codec, seed: int) -> Example:
        if not self.dynamic:
            return example
        (row,) = example.rows
        return Example(example.id, (self._covered(_original_tokens(row), codec, seed),))

    def _always(self, ids: Ints, codec: Codec) -> Row:
        """The row of a text as it is covered where nothing says otherwise: always at the same places."""
        return self._covered(ids, codec, derive(0, "mask", *ids.tolist()))

    def _covered(self, ids: np.ndarray, codec: Codec, seed: int) -> Row:
        draw = np.random.default_rng(seed)
        at = self._places(ids, codec, draw)
        fate, tokens = draw.random(len(at)), ids.copy()
        tokens[at[fate < self.mask]] = codec.special_tokens.mask
        others = at[(fate >= self.mask) & (fate < self.mask + self.random)]
        tokens[others] = draw.choice(codec.special_tokens.text_tokens, len(others))
        return Row(tokens, at, ids[at], np.ones(len(at), np.float32), both_ways=True)

    def _places(self, ids: np.ndarray, codec: Codec, draw: np.random.Generator) -> np.ndarray:
        """Places to predict, at least one, in ascending order."""
        free = np.flatnonzero(codec.special_tokens.is_text[ids])
        wanted = max(1, round(self.share * len(free)))
        if not self.whole_words:
            return np.sort(draw.choice(free, wanted, replace=False))
        begins = ~codec.special_tokens.continues_word[ids[free]] | (np.diff(free, prepend=-2) > 1)
        begins[0] = True
        word = np.cumsum(begins) - 1
        order = draw.permutation(word[-1] + 1)
        enough = int(np.searchsorted(np.cumsum(np.bincount(word)[order]), wanted)) + 1
        return free[np.isin(word, order[:enough])]


def _original_tokens(row: Row) -> Ints:
    """The text a row was made of."""
    whole = row.tokens.copy()
    whole[row.at] = row.label
    return whole
