"""Next-token prediction over whole texts: pre-training and continued pre-training.

Fill-in-the-middle: Bavarian et al. 2022, arXiv 2207.14255.
"""

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
    """Next-token prediction over whole texts: the mean of −log p(token | tokens before it) over all tokens.

    Packed documents never attend to each other.
    """

    reads: ClassVar[tuple[type, ...]] = (Text,)
    can_split: ClassVar[bool] = True
    # The last token of a window is only predicted, so the next window begins with it.
    overlap: ClassVar[int] = 1
    lr: ClassVar[tuple[float, float]] = (1e-3, 2e-4)

    kind: Literal["causal"] = "causal"
    fim: float = Field(
        0.0, ge=0, le=1, description="Fraction of texts, chosen anew for each update, trained to fill in the middle."
    )
    fim_end_first: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Fraction of these ordered end, beginning, middle instead of beginning, end, middle.",
    )

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Text)
        if self.fim:
            # Raises at the first row, not at the first update, if the tokenizer has no FIM tokens.
            codec.special_tokens.fim  # noqa: B018
        return [(row,) for row in codec.encode_document(record)]

    def window_tokens(self, row: Row, codec: Codec) -> Ints:
        # A block's row lacks the token that only its last label holds.
        return np.append(row.tokens[: len(row.at)], row.label[-1:])

    def window_row(self, tokens: Ints, codec: Codec) -> Row | None:
        return codec.block_row(tokens)

    def augment(self, example: Example, codec: Codec, seed: int) -> Example:
        rng = np.random.default_rng(seed)
        if rng.random() >= self.fim:
            return example
        (row,) = example.rows
        ids = np.append(row.tokens[:1], row.label)  # [t], the whole text
        reordered = self._fill_in_the_middle(ids, codec, rng)
        if reordered is None:
            return example
        at = np.arange(len(reordered) - 1)  # [t - 1]
        return Example(example.id, (Row(reordered, at, reordered[1:], np.ones(len(at), np.float32)),))

    def _fill_in_the_middle(self, ids: Ints, codec: Codec, rng: np.random.Generator) -> Ints | None:
        """The tokens of a text with a random middle moved to the end, marked by FIM tokens; None if it is too short."""
        is_special = ~codec.special_tokens.is_text[ids]
        # BOS and EOS stay around the text: only what stands between them is reordered.
        begin, end = int(is_special[0]), len(ids) - int(is_special[-1] and len(ids) > 1)
        # The three FIM tokens must fit within the limit, too.
        end -= max(0, len(ids) + len(codec.special_tokens.fim) - codec.max_length)
        if end - begin < 2:
            return None
        prefix, suffix, middle = ([token] for token in codec.special_tokens.fim)
        start, stop = np.sort(rng.integers(begin, end + 1, 2))
        first, hole, last = ids[begin:start], ids[start:stop], ids[stop:end]
        if rng.random() < self.fim_end_first:
            # SPM order of the paper: the model continues from the beginning straight into the middle.
            parts = [prefix, suffix, last, middle, first, hole]
        else:
            parts = [prefix, first, suffix, last, middle, hole]
        return np.concatenate([ids[:begin], *parts, ids[len(ids) - int(is_special[-1]) :]])
