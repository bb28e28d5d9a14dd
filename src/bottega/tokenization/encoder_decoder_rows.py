"""Token rows of encoder–decoder models: the encoder reads `source`, the decoder predicts the labels one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Ints, Row


def encoder_decoder_row(decoder_start: int, source: Ints, label: Ints, weight: NDArray[np.float32]) -> Row:
    """The row in which a decoder predicts all of `label` [n] from the encoder's `source` [s]."""
    # The decoder's input is the label shifted right by its start token.
    tokens = np.append(decoder_start, label[:-1])
    return Row(tokens, np.arange(len(label)), label, weight, source=source)


def split_last_answer(row: Row, decoder_start: int, source_end: Ints) -> Row:
    """Turn a decoder-only row into one of an encoder–decoder: its last answer is predicted, all before it is read.

    source_end  tokens that the tokenizer adds after a text
    """
    # The last answer begins where `at` jumps for the last time; the first element always counts as a jump.
    first = np.flatnonzero(np.diff(row.at, prepend=-2) > 1)[-1]
    begin = int(row.at[first]) + 1
    source = np.append(row.tokens[:begin], source_end)
    return encoder_decoder_row(decoder_start, source, row.label[first:], row.weight[first:])
