"""What tagging learns of the entities of a text, and which of them it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from word_texts import TEXT, tagged, word_codec

from bottega.data.example_cache import ExampleCache
from bottega.errors import DataError
from bottega.objectives._tags import snap_to_words
from bottega.objectives.tag import Tag
from bottega.records import Entity, Tagged
from bottega.training.dataset import EncodedRows


def test_without_a_pre_tokenizer_characters_of_scripts_without_spaces_are_words(tmp_path: Path) -> None:
    made = word_codec(tmp_path / "m", "unsplit")
    record = tagged(("田中", "PER"), ("佐藤", "PER"))
    assert snap_to_words(record, made.encode_words("here", TEXT)[1]) == list(record.spans)
    assert Tag().rows(record, made)[0][0].label.tolist()[-5:] == [1, 2, 0, 1, 2]
    assert made.untagged == 0


def test_entities_without_a_word_of_their_own_are_counted(tmp_path: Path) -> None:
    """Two in one word, and white space alone; a row that has no other is none."""
    made = word_codec(tmp_path / "m", "bytes")
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
    made = word_codec(tmp_path / "m", "bytes", length=6)
    Tag().rows(tagged(("Oslo", "LOC")), made)
    assert (made.truncated, made.untagged) == (1, 0)
