"""Words of texts in any script and of any length, each read at one token, by any tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from word_texts import TEXT, tagged, word_codec

from bottega.objectives._tags import snap_to_words
from bottega.records import Unusable
from bottega.tokenization.codec import Codec


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("kind", ["unsplit", "bytes", "wordpieces"])
def test_words_by_any_tokenizer(kind: str, both_ways: bool, tmp_path: Path) -> None:
    made = word_codec(tmp_path / kind, kind, both_ways=both_ways)
    row, words = made.encode_words("here", TEXT)
    shown = [TEXT[start:stop] for start, stop in words]
    assert shown[:7] == ["Anna", "lives", "in", "Oslo", ",", "now", ":"]
    assert shown[7:9] == ["दिल्ली", "cafe\u0301"], "marks stay with their letter"
    assert len(row.at) == len(words)
    record = tagged(("Anna", "PER"), ("Oslo", "LOC"), ("दिल्ली", "LOC"), ("cafe\u0301", "LOC"))
    assert snap_to_words(record, words) == list(record.spans)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("kind", ["unsplit", "bytes", "wordpieces"])
@pytest.mark.parametrize("length", [5, 8, 13, 64])
def test_a_long_text_is_read_in_windows(kind: str, both_ways: bool, length: int, tmp_path: Path) -> None:
    text = " ".join(["Anna lives in Oslo, now"] * 12)
    whole = word_codec(tmp_path / "whole", kind, both_ways=both_ways, length=10_000)
    row, words = whole.encode_words("here", text)
    short = Codec(whole.tokenizer, max_length=length, too_long="truncate", both_ways=both_ways)
    rows, same = short.encode_word_windows(text)
    assert same == words, "every word is read"
    assert sum(len(one.at) for one in rows) == len(words)
    read = np.concatenate([one.tokens[one.at] for one in rows])
    assert (read == row.tokens[row.at]).all(), "and each where it would be read in the whole"
    assert max(len(one.tokens) for one in rows) == length
    if length == 64:
        inside = [(one.at.min(), len(one.tokens) - one.at.max()) for one in rows[1:-1]]
        assert all(min(pair) > 8 for pair in inside), "with some of the text on both sides"


def test_a_short_text_has_one_window_which_is_its_row(tmp_path: Path) -> None:
    made = word_codec(tmp_path / "m", "wordpieces")
    (window,), words = made.encode_word_windows(TEXT)
    row, same = made.encode_words("here", TEXT)
    assert words == same
    assert (window.tokens == row.tokens).all()
    assert (window.at == row.at).all()
    with pytest.raises(Unusable, match="no words"):
        made.encode_word_windows("")


def test_an_encoder_reads_the_first_piece_and_a_decoder_the_last(tmp_path: Path) -> None:
    first, words = word_codec(tmp_path / "m", "bytes").encode_words("here", TEXT)
    last, same = word_codec(tmp_path / "m", "bytes", both_ways=False).encode_words("here", TEXT)
    assert words == same
    assert (first.at <= last.at).all()
    assert (first.at < last.at).any()
    assert (first.at[1:] > last.at[:-1]).all()


def test_a_text_too_long_loses_its_last_words(tmp_path: Path) -> None:
    whole, _ = word_codec(tmp_path / "m", "wordpieces").encode_words("here", TEXT)
    short = word_codec(tmp_path / "short", "wordpieces", length=12)
    row, words = short.encode_words("here", TEXT)
    assert len(row.tokens) == 12
    assert short.tally.truncated == 1
    assert 0 < len(words) < len(whole.at)
    assert row.tokens[-1] == whole.tokens[-1], "the end that the tokenizer adds stays"


def test_a_text_without_words_is_unusable(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="no words"):
        word_codec(tmp_path / "m", "bytes").encode_words("here", "")
