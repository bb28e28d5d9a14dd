"""Rows of encoder–decoders: what the encoder reads, and what the decoder predicts from it."""

from __future__ import annotations

import numpy as np

from bottega.batch import Row
from bottega.tokenization.encoder_decoder_rows import encoder_decoder_row, split_last_answer

START, END = 90, 91


def row_of(ids: list[int], places: list[int], weight: float = 1.0) -> Row:
    """The row in which the tokens at these places are predicted."""
    at = np.array(places) - 1
    tokens = np.array(ids)
    return Row(tokens, at, tokens[places], np.full(len(places), weight, np.float32))


def test_a_decoder_reads_its_labels_shifted_by_one() -> None:
    row = encoder_decoder_row(START, np.array([1, 2]), np.array([5, 6, 7]), np.array([1, 0.5, 1], np.float32))
    assert row.source is not None
    assert row.source.tolist() == [1, 2]
    assert row.tokens.tolist() == [START, 5, 6]
    assert row.at.tolist() == [0, 1, 2]
    assert row.label.tolist() == [5, 6, 7]
    assert row.weight.tolist() == [1.0, 0.5, 1.0]


def test_all_before_the_last_answer_is_read() -> None:
    # Tokens 11 and 12 are an earlier answer, 14 and 15 the last.
    row = split_last_answer(row_of([10, 11, 12, 13, 14, 15], [1, 2, 4, 5], 0.5), START, np.array([END]))
    assert row.source is not None
    assert row.source.tolist() == [10, 11, 12, 13, END]
    assert row.tokens.tolist() == [START, 14]
    assert row.label.tolist() == [14, 15]
    assert row.weight.tolist() == [0.5, 0.5]


def test_a_row_that_is_one_answer_is_read_up_to_it() -> None:
    row = split_last_answer(row_of([10, 11, 12], [1, 2]), START, np.array([], np.int64))
    assert row.source is not None
    assert row.source.tolist() == [10]
    assert row.label.tolist() == [11, 12]
