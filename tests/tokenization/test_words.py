"""Words of texts in any script and of any length, by any tokenizer; which entities tags can tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers

from bottega.data.example_cache import ExampleCache
from bottega.errors import DataError
from bottega.objectives._tags import snap_to_words
from bottega.objectives.tag import Tag
from bottega.records import Entity, Tagged, Unusable
from bottega.tokenization.codec import Codec
from bottega.training.dataset import EncodedRows
from making import make_codec

TEXT = "Anna lives in Oslo, now: दिल्ली cafe\u0301 and 田中と佐藤"


def unsplit(folder: Path) -> Path:
    """A tokenizer that has no pre-tokenizer: spaces are letters to it, as to Llama's."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    characters = sorted({"\u2581", *TEXT, *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,"} - {" "})
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *characters])}
    merges = [("O", "s"), ("Os", "l"), ("Osl", "o"), ("\u2581", "Oslo"), ("\u2581", "i"), ("\u2581i", "n")]
    for one, other in merges:
        vocabulary[one + other] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Replace("\u2581", " ")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(str(folder))
    return folder


def codec(folder: Path, kind: str, *, both_ways: bool = True, length: int = 200) -> Codec:
    folder.mkdir(exist_ok=True)
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    name = unsplit(folder) if kind == "unsplit" else None
    return make_codec(folder, kind, TEXT, name=name, both_ways=both_ways, length=length, labels=labels)


def tagged(*parts: tuple[str, str], text: str = TEXT) -> Tagged:
    spans = (Entity(text.index(part), text.index(part) + len(part), label) for part, label in parts)
    return Tagged("rows line 1", text, tuple(sorted(spans)))


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("kind", ["unsplit", "bytes", "wordpieces"])
def test_words_by_any_tokenizer(kind: str, both_ways: bool, tmp_path: Path) -> None:
    made = codec(tmp_path / kind, kind, both_ways=both_ways)
    row, words = made.encode_words("here", TEXT)
    shown = [TEXT[start:stop] for start, stop in words]
    assert shown[:7] == ["Anna", "lives", "in", "Oslo", ",", "now", ":"]
    assert shown[7:9] == ["दिल्ली", "cafe\u0301"], "marks stay with their letter"
    assert len(row.at) == len(words)
    record = tagged(("Anna", "PER"), ("Oslo", "LOC"), ("दिल्ली", "LOC"), ("cafe\u0301", "LOC"))
    assert snap_to_words(record, words) == list(record.spans)


def test_without_a_pre_tokenizer_characters_of_scripts_without_spaces_are_words(tmp_path: Path) -> None:
    made = codec(tmp_path / "m", "unsplit")
    record = tagged(("田中", "PER"), ("佐藤", "PER"))
    assert snap_to_words(record, made.encode_words("here", TEXT)[1]) == list(record.spans)
    assert Tag().rows(record, made)[0][0].label.tolist()[-5:] == [1, 2, 0, 1, 2]
    assert made.untagged == 0


def test_entities_without_a_word_of_their_own_are_counted(tmp_path: Path) -> None:
    """Two in one word, and white space alone; a row that has no other is none."""
    made = codec(tmp_path / "m", "bytes")
    text = "Anna met AnnaMaria now"
    inner = (Entity(0, 4, "PER"), Entity(9, 13, "PER"), Entity(13, 18, "PER"))
    record = Tagged("1", text, inner)
    assert snap_to_words(record, made.encode_words("1", text)[1]) == [Entity(0, 4, "PER"), Entity(9, 18, "PER")]
    encoded = EncodedRows(ExampleCache())
    encoded.add(record, Tag(), made)
    assert made.untagged == 1
    encoded.add(Tagged("2", text, (Entity(4, 5, "PER"),)), Tag(), made)
    assert encoded.dropped == {"none of its entities has a word of its own": 1}
    nothing = EncodedRows(ExampleCache())
    nothing.add(Tagged("2", text, (Entity(4, 5, "PER"),)), Tag(), made)
    with pytest.raises(DataError, match="nothing to learn"):
        nothing.refuse_empty("rows.jsonl")


def test_what_lies_beyond_the_cut_is_not_counted_as_lost(tmp_path: Path) -> None:
    made = codec(tmp_path / "m", "bytes", length=6)
    Tag().rows(tagged(("Oslo", "LOC")), made)
    assert (made.truncated, made.untagged) == (1, 0)


def test_spans_are_told_by_words(tmp_path: Path) -> None:
    """White space at the ends, and ends within a word, count in a measure as they do in training."""
    words = codec(tmp_path / "m", "bytes").encode_words("here", TEXT)[1]
    for start, stop in ((0, 5), (0, 3), (1, 4)):
        assert snap_to_words(Tagged("1", TEXT, (Entity(start, stop, "PER"),)), words) == [Entity(0, 4, "PER")]


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("kind", ["unsplit", "bytes", "wordpieces"])
@pytest.mark.parametrize("length", [5, 8, 13, 64])
def test_a_long_text_is_read_in_windows(kind: str, both_ways: bool, length: int, tmp_path: Path) -> None:
    text = " ".join(["Anna lives in Oslo, now"] * 12)
    whole = codec(tmp_path / "whole", kind, both_ways=both_ways, length=10_000)
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
    made = codec(tmp_path / "m", "wordpieces")
    (window,), words = made.encode_word_windows(TEXT)
    row, same = made.encode_words("here", TEXT)
    assert words == same
    assert (window.tokens == row.tokens).all()
    assert (window.at == row.at).all()
    with pytest.raises(Unusable, match="no words"):
        made.encode_word_windows("")
