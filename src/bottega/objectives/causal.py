"""Next-token prediction over whole texts: pre-training and continued pre-training."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bottega.batch import Example, Ints, Row
from bottega.objectives import Likelihood
from bottega.records import Record, Text

if TYPE_CHECKING:
    from bottega.tokenization.codec import Codec


class Causal(Likelihood):
    """Mean negative log-likelihood a token. Documents never see each other, however they are packed.

    label_smoothing  share of the likelihood that is spread evenly over the vocabulary, in training only
    fim              share of the texts, drawn for each update, of which a middle is to be filled in: cut at two tokens
                     and told beginning, end, middle (Bavarian et al. 2022, arXiv 2207.14255)
    fim_end_first    share of these that are told end, beginning, middle instead
    """

    reads: ClassVar[tuple[type, ...]] = (Text,)
    can_split: ClassVar[bool] = True
    overlap: ClassVar[int] = 1  # the last token of a window is only predicted
    lr: ClassVar[tuple[float, float]] = (1e-3, 2e-4)

    kind: Literal["causal"] = "causal"
    fim: float = Field(0.0, ge=0, le=1)
    fim_end_first: float = Field(0.5, ge=0, le=1)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Text)
        if self.fim:
            codec.special_tokens.fim  # noqa: B018, says at the first row where the tokenizer has none
        return [(row,) for row in codec.encode_document(record)]

    def window_tokens(self, row: Row, codec: Codec) -> Ints:
        return np.append(row.tokens[: len(row.at)], row.label[-1:])

    def window_row(self, tokens: Ints, codec: Codec) -> Row | None:
        return codec.block_row(tokens)

    def augment(self, example: Example, codec: Codec, seed: int) -> Example:
        draw = np.random.default_rng(seed)
        if draw.random() >= self.fim:
            return example
        (row,) = example.rows
        ids = np.append(row.tokens[:1], row.label)
        marked = ~codec.special_tokens.is_text[ids]
        # What the tokenizer puts around a text stays around it.
        begin, end = int(marked[0]), len(ids) - int(marked[-1] and len(ids) > 1)
        end -= max(0, len(ids) + len(codec.special_tokens.fim) - codec.max_length)
        if end - begin < 2:
            return example
        prefix, suffix, middle = ([mark] for mark in codec.special_tokens.fim)
        one, other = np.sort(draw.integers(begin, end + 1, 2))
        first, hole, last = ids[begin:one], ids[one:other], ids[other:end]
        if draw.random() < self.fim_end_first:
            parts = [prefix, suffix, last, middle, first, hole]
        else:
            parts = [prefix, first, suffix, last, middle, hole]
        told = np.concatenate([ids[:begin], *parts, ids[len(ids) - int(marked[-1]) :]])
        at = np.arange(len(told) - 1)
        return Example(example.id, (Row(told, at, told[1:], np.ones(len(at), np.float32)),))
