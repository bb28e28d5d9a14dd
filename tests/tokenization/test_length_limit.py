"""Rows with more than `max_length` tokens are dropped, cut, or an error, by the policy."""

from __future__ import annotations

import numpy as np
import pytest
from chat_styles import byte_level, codec

from bottega.errors import DataError
from bottega.records import Preference, Prompted, TooLong, Unusable
from bottega.tokenization.answer_encoder import predict_weighted
from bottega.tokenization.encoder_decoder_rows import encoder_decoder_row
from bottega.tokenization.length_limit import LengthLimit
from bottega.tokenization.special_tokens import SpecialTokens
from bottega.tokenization.text_encoder import TextEncoder


@pytest.mark.parametrize("policy", ["drop", "truncate", "error"])
def test_a_row_that_just_fits_is_left_alone(policy: str) -> None:
    limited = codec(byte_level(eos="</s>", merges=False), max_length=7, too_long=policy)
    row = limited.encode_answers(Prompted("here", "abc", "def"))
    assert (len(row.tokens), row.loss_count, limited.tally.truncated) == (7, 4, 0)


def test_too_long_rows_are_dropped_by_reason() -> None:
    with pytest.raises(Unusable) as caught:
        codec(byte_level(eos="</s>", merges=False), max_length=6).encode_answers(Prompted("here", "abc", "def"))
    assert caught.value.reason == "longer than max_length 6"


def test_too_long_rows_are_errors_where_asked() -> None:
    strict = codec(byte_level(eos="</s>", merges=False), max_length=6, too_long="error")
    with pytest.raises(DataError, match="7 tokens") as caught:
        strict.encode_answers(Prompted("rows.jsonl line 9", "abc", "def"))
    assert caught.value.where == "rows.jsonl line 9"
    assert "data.max_length" in str(caught.value.fix)


def test_too_long_rows_are_cut_where_asked() -> None:
    tokenizer = byte_level(eos="</s>", merges=False)
    cutting = codec(tokenizer, max_length=6, too_long="truncate")
    row = cutting.encode_answers(Prompted("here", "abc", "defgh"))
    assert tokenizer.decode(row.tokens.tolist()) == "abcdef"
    assert row.at.tolist() == [2, 3, 4, 5]
    assert tokenizer.decode(row.label.tolist()) == "defg"  # the last place predicts what was cut off
    assert len(row.weight) == 4
    assert cutting.tally.truncated == 1


def test_an_answer_too_long_by_itself_is_left_out_or_cut() -> None:
    tokenizer = byte_level(eos="</s>", merges=False)
    with pytest.raises(Unusable, match="longer than max_length 6"):
        codec(tokenizer, max_length=6, too_long="shorten").encode_answers(Prompted("here", "abcd", "efghijk"))
    cutting = codec(tokenizer, max_length=6, too_long="truncate")
    row = cutting.encode_answers(Prompted("here", "abcd", "efghijk"))
    assert tokenizer.decode(row.tokens.tolist()) == "bcdefg"
    assert tokenizer.decode(row.label.tolist()) == "efgh"
    assert cutting.tally.truncated == 1


def test_both_answers_of_a_pair_keep_the_same_prompt() -> None:
    tokenizer = byte_level(eos="</s>", merges=False)
    chosen, rejected = codec(tokenizer, max_length=8, too_long="shorten").encode_pair(
        Preference("here", "abcdefgh", "the", "catsat")
    )
    assert tokenizer.decode(chosen.tokens.tolist()) == "hthe</s>"
    assert tokenizer.decode(rejected.tokens.tolist()) == "hcatsat</s>"


def limit_of(max_length: int, policy: TooLong) -> LengthLimit:
    tokenizer = byte_level(eos="</s>", adds_eos=True, merges=False)
    encoder = TextEncoder(tokenizer, max_length)
    return LengthLimit(max_length, policy, encoder, SpecialTokens(tokenizer, encoder))


def test_truncation_is_counted_in_nested_blocks() -> None:
    limit = limit_of(4, "truncate")
    row = predict_weighted(np.arange(9), np.ones(9, np.float32))
    unusable = predict_weighted(np.arange(9), np.array([0] * 8 + [1]))
    with limit.track() as outer:
        limit.cut("here", row)
        with limit.track() as inner:
            limit.cut("here", row)
        assert (inner.count, inner.note) == (1, ", cut at 4")
        with pytest.raises(Unusable), limit.track() as failed:
            [limit.cut("here", part) for part in (row, unusable)]
    assert failed.count == 1
    assert (outer.count, limit.tally.truncated) == (3, 3)
    with limit.track() as nothing:
        pass
    assert nothing.note == ""


def test_a_row_whose_labels_all_lie_beyond_the_cut_is_unusable() -> None:
    weight = np.zeros(9, np.float32)
    weight[6:] = 1
    with pytest.raises(Unusable, match="all labels lost"):
        limit_of(4, "truncate").cut("here", predict_weighted(np.arange(9), weight))


def test_a_cut_source_keeps_the_end_that_the_tokenizer_adds() -> None:
    limit = limit_of(4, "truncate")
    row = encoder_decoder_row(0, np.arange(20, 29), np.array([5, 6]), np.ones(2, np.float32))
    assert limit.excess(row) == 5
    cut = limit.cut("here", row)
    assert cut.source is not None
    assert cut.source.tolist()[:3] == [20, 21, 22]
    assert limit._special_tokens.frame[1].tolist() == cut.source.tolist()[3:]
    assert (cut.label.tolist(), limit.excess(cut), limit.tally.truncated) == ([5, 6], 0, 1)


@pytest.mark.parametrize("policy", ["drop", "shorten", "split"])
def test_only_truncate_cuts_an_answer_and_only_shorten_its_prompt(policy: TooLong) -> None:
    limit = limit_of(4, policy)
    with pytest.raises(Unusable, match="longer than max_length 4"):
        limit.check("here", 5)
    if policy == "shorten":
        limit.check("here", 5, prompt=True)
    limit_of(4, "truncate").check("here", 5)
