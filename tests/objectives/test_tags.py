"""Tags of words: from spans to tags and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import word_texts
from word_texts import tagged

from bottega.objectives._tags import WordSpan, decode_tags, encode_tags, snap_to_words, tag_prefixes
from bottega.objectives.tag import Scheme
from bottega.records import Entity, Tagged
from making import make_codec

TEXT = "Ada Lovelace met Zürich's mayor, Mr. Fox-Pitt, in New York"


RECORD = tagged(
    ("Ada Lovelace", "person"), ("Zürich", "place"), ("Mr. Fox-Pitt", "person"), ("New York", "place"), text=TEXT
)


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("kind", ["bytes", "wordpieces"])
def test_tags_lead_back_to_the_spans(kind: str, both_ways: bool, scheme: Scheme, tmp_path: Path) -> None:
    row, words = make_codec(tmp_path, kind, TEXT, both_ways=both_ways).encode_words("here", TEXT)
    assert len(row.at) == len(words)
    names = encode_tags(RECORD, words, scheme)
    kinds = ["person", "place"]
    known = ["O", *(f"{mark}-{name}" for name in kinds for mark in tag_prefixes(scheme))]
    found = decode_tags([known.index(name) for name in names], scheme)
    assert [Entity(words[one.first][0], words[one.stop - 1][1], kinds[one.label]) for one in found] == list(
        RECORD.spans
    )


@pytest.mark.parametrize(
    ("scheme", "written", "wanted"),
    [
        ("BIO", "B I O B", [WordSpan(0, 2, 0), WordSpan(3, 4, 0)]),
        ("BIO", "B B I", [WordSpan(0, 1, 0), WordSpan(1, 3, 0)]),
        ("BIO", "I I O I", [WordSpan(0, 2, 0), WordSpan(3, 4, 0)]),
        ("BIO", "B b i I", [WordSpan(0, 1, 0), WordSpan(1, 3, 1), WordSpan(3, 4, 0)]),
        ("BIOES", "B I E S", [WordSpan(0, 3, 0), WordSpan(3, 4, 0)]),
        ("BIOES", "S S O E", [WordSpan(0, 1, 0), WordSpan(1, 2, 0), WordSpan(3, 4, 0)]),
        ("BIOES", "B E E", [WordSpan(0, 2, 0), WordSpan(2, 3, 0)]),
        ("BIOES", "B e I", [WordSpan(0, 1, 0), WordSpan(1, 2, 1), WordSpan(2, 3, 0)]),
    ],
)
def test_decode_tags(scheme: str, written: str, wanted: list[WordSpan]) -> None:
    """Capitals are marks of kind 0, small letters of kind 1."""
    letters = tag_prefixes(scheme)
    ids = [0 if m == "O" else 1 + letters.index(m.upper()) + len(letters) * m.islower() for m in written.split()]
    assert decode_tags(ids, scheme) == wanted


def test_spans_snap_to_whole_words(tmp_path: Path) -> None:
    """White space at the ends, and ends within a word, count in a measure as they do in training."""
    words = word_texts.word_codec(tmp_path / "m", "bytes").encode_words("here", word_texts.TEXT)[1]
    for start, stop in ((0, 5), (0, 3), (1, 4)):
        assert snap_to_words(Tagged("1", word_texts.TEXT, (Entity(start, stop, "PER"),)), words) == [
            Entity(0, 4, "PER")
        ]
