"""Tags of words: from spans to tags and back, with every kind of tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.objectives._tags import WordSpan, decode_tags, encode_tags, tag_prefixes
from bottega.objectives.tag import Scheme
from bottega.records import Entity, Tagged, Unusable
from bottega.tokenization import unicode_words
from bottega.tokenization.codec import Codec
from bottega.tokenization.conll import to_conll
from making import make_codec

TEXT = "Ada Lovelace met Zürich's mayor, Mr. Fox-Pitt, in New York"


def entity(text: str, part: str, label: str) -> Entity:
    start = text.index(part)
    return Entity(start, start + len(part), label)


RECORD = Tagged(
    "rows line 1",
    TEXT,
    (
        entity(TEXT, "Ada Lovelace", "person"),
        entity(TEXT, "Zürich", "place"),
        entity(TEXT, "Mr. Fox-Pitt", "person"),
        entity(TEXT, "New York", "place"),
    ),
)


def codec(folder: Path, kind: str, *, both_ways: bool, length: int = 100) -> Codec:
    return make_codec(folder, kind, TEXT, both_ways=both_ways, length=length)


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("kind", ["bytes", "wordpieces"])
def test_tags_lead_back_to_the_spans(kind: str, both_ways: bool, scheme: Scheme, tmp_path: Path) -> None:
    row, words = codec(tmp_path, kind, both_ways=both_ways).encode_words("here", TEXT)
    assert len(row.at) == len(words)
    names = encode_tags(RECORD, words, scheme)
    kinds = ["person", "place"]
    known = ["O", *(f"{mark}-{name}" for name in kinds for mark in tag_prefixes(scheme))]
    found = decode_tags([known.index(name) for name in names], scheme)
    assert [Entity(words[one.first][0], words[one.stop - 1][1], kinds[one.label]) for one in found] == list(
        RECORD.spans
    )


def test_an_encoder_reads_the_first_piece_and_a_decoder_the_last(tmp_path: Path) -> None:
    first, words = codec(tmp_path, "bytes", both_ways=True).encode_words("here", TEXT)
    last, same = codec(tmp_path, "bytes", both_ways=False).encode_words("here", TEXT)
    assert words == same
    assert (first.at <= last.at).all()
    assert (first.at < last.at).any()
    assert (first.at[1:] > last.at[:-1]).all()


def test_a_text_too_long_loses_its_last_words(tmp_path: Path) -> None:
    whole, _ = codec(tmp_path, "wordpieces", both_ways=True).encode_words("here", TEXT)
    (tmp_path / "short").mkdir()
    short = codec(tmp_path / "short", "wordpieces", both_ways=True, length=12)
    row, words = short.encode_words("here", TEXT)
    assert len(row.tokens) == 12
    assert short.truncated == 1
    assert 0 < len(words) < len(whole.at)
    assert row.tokens[-1] == whole.tokens[-1], "the end that the tokenizer adds stays"


def test_a_text_without_words_is_none(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="no words"):
        codec(tmp_path, "bytes", both_ways=True).encode_words("here", "")


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
def test_entities(scheme: str, written: str, wanted: list[WordSpan]) -> None:
    """Capitals are marks of kind 0, small letters of kind 1."""
    letters = tag_prefixes(scheme)
    ids = [0 if m == "O" else 1 + letters.index(m.upper()) + len(letters) * m.islower() for m in written.split()]
    assert decode_tags(ids, scheme) == wanted


def printed(text: str, spans: list[Entity]) -> list[str]:
    return to_conll(text, spans).splitlines()


def test_conll() -> None:
    lines = printed("Mr. Fox, in Rome", [Entity(0, 7, "person"), Entity(12, 16, "place")])
    assert lines == ["Mr\tB-person", ".\tI-person", "Fox\tI-person", ",\tO", "in\tO", "Rome\tB-place"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("दिल्ली में", ["दिल्ली", "में"]),
        ("cafe\u0301 now", ["cafe\u0301", "now"]),
        ("e\u0301tat!", ["e\u0301tat", "!"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("สี่ มือ", ["สี่", "มื", "อ"]),
        ("مُحَمَّد", ["مُحَمَّد"]),
        ("a!\u0301b", ["a", "!\u0301", "b"]),
        ("l'état, c'est", ["l", "'", "état", ",", "c", "'", "est"]),
    ],
)
def test_marks_stay_with_their_letter(text: str, parts: list[str]) -> None:
    assert [text[start:stop] for start, stop in unicode_words.word_offsets(text, signs=True)] == parts


def test_every_entity_is_printed_though_no_blank_parts_them() -> None:
    lines = to_conll("田中と佐藤", [Entity(0, 2, "PER"), Entity(3, 5, "PER")], [(0, 5)]).splitlines()
    assert lines == ["田中\tB-PER", "と\tO", "佐藤\tB-PER"]
    spans = [Entity(0, 3, "PER"), Entity(4, 8, "PER")]
    assert printed("ida_nils ran", spans) == ["ida\tB-PER", "_\tO", "nils\tB-PER", "ran\tO"]


def test_the_words_that_were_read_are_printed() -> None:
    lines = to_conll("New York!", [Entity(0, 8, "LOC")], [(0, 3), (4, 6), (6, 8), (8, 9)]).splitlines()
    assert lines == ["New\tB-LOC", "Yo\tI-LOC", "rk\tI-LOC", "!\tO"]
