"""Masked language modeling (Devlin et al. 2019, arXiv 1810.04805): predict tokens that are hidden from the model."""

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
    """Masked language modeling: the mean of −log p(token | all tokens, some masked) over the tokens to predict.

    Of those, a fraction `mask` is replaced by the mask token and a fraction `random` by a random token; the rest stays
    as it is, so that the model must also represent tokens that are not masked.
    """

    reads: ClassVar[tuple[type, ...]] = (Text,)
    head: ClassVar[HeadKind] = "masked"
    can_split: ClassVar[bool] = True
    lr: ClassVar[tuple[float, float]] = (5e-4, 5e-4)

    kind: Literal["masked"] = "masked"
    share: float = Field(
        0.15, gt=0, lt=1, description="Masking rate: fraction of the tokens to predict; special tokens never are."
    )
    mask: float = Field(0.8, ge=0, le=1, description="Fraction of these that are replaced by the mask token.")
    random: float = Field(0.1, ge=0, le=1, description="Fraction of these that are replaced by a random token.")
    dynamic: bool = Field(
        True,
        description="Mask other tokens each time a text is seen (Liu et al. 2019, arXiv 1907.11692); false: always the "
        "same, as in validation.",
    )
    whole_words: bool = Field(False, description="Mask all tokens of a word or none.")

    @model_validator(mode="after")
    def _check_sum(self) -> Masked:
        if self.mask + self.random > 1:
            raise ValueError("mask and random are fractions of the same tokens: their sum must not exceed 1")
        return self

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Text)
        return [(self._fixed_row(ids, codec),) for ids in codec.encode_passages(record)]

    def window_tokens(self, row: Row, codec: Codec) -> Ints:
        return codec.special_tokens.remove_frame(_original_tokens(row))

    def window_row(self, tokens: Ints, codec: Codec) -> Row | None:
        # A window of special tokens only has nothing to mask.
        if not codec.special_tokens.is_text[tokens].any():
            return None
        return self._fixed_row(codec.special_tokens.add_frame(tokens), codec)

    def augment(self, example: Example, codec: Codec, seed: int) -> Example:
        if not self.dynamic:
            return example
        (row,) = example.rows
        return Example(example.id, (self._masked_row(_original_tokens(row), codec, seed),))

    def _fixed_row(self, ids: Ints, codec: Codec) -> Row:
        """The row of a text outside training updates: seeded by its tokens, so it is masked alike in every run."""
        return self._masked_row(ids, codec, derive(0, "mask", *ids.tolist()))

    def _masked_row(self, ids: Ints, codec: Codec, seed: int) -> Row:
        """The row of a text [t] with n tokens to predict, drawn by `seed`."""
        rng = np.random.default_rng(seed)
        at = self._choose_positions(ids, codec, rng)  # [n]
        # One draw decides between mask token, random token and no change, so the fractions exclude each other.
        draw, tokens = rng.random(len(at)), ids.copy()
        tokens[at[draw < self.mask]] = codec.special_tokens.mask
        replaced = at[(draw >= self.mask) & (draw < self.mask + self.random)]
        tokens[replaced] = rng.choice(codec.special_tokens.text_tokens, len(replaced))
        return Row(tokens, at, ids[at], np.ones(len(at), np.float32), both_ways=True)

    def _choose_positions(self, ids: Ints, codec: Codec, rng: np.random.Generator) -> Ints:
        """[n] positions to predict, at least one, in ascending order."""
        maskable = np.flatnonzero(codec.special_tokens.is_text[ids])
        count = max(1, round(self.share * len(maskable)))
        if not self.whole_words:
            return np.sort(rng.choice(maskable, count, replace=False))
        # A special token in between ends a word, too.
        begins = ~codec.special_tokens.continues_word[ids[maskable]] | (np.diff(maskable, prepend=-2) > 1)
        begins[0] = True
        word = np.cumsum(begins) - 1  # the index of each token's word
        order = rng.permutation(word[-1] + 1)
        # As many words as it takes to reach `count` tokens; the last one may exceed it.
        sizes = np.bincount(word)[order]
        words = int(np.searchsorted(np.cumsum(sizes), count)) + 1
        return maskable[np.isin(word, order[:words])]


def _original_tokens(row: Row) -> Ints:
    """[t] the tokens of the text before it was masked: the labels hold what is hidden."""
    tokens = row.tokens.copy()
    tokens[row.at] = row.label
    return tokens
