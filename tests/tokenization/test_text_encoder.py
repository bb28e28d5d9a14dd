"""What a tokenizer makes of texts, whatever its stored settings, and the same when encoded ahead."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import transformers
from chat_styles import assistant, byte_level, codec, user

from bottega.data.train_tokenizer import train_tokenizer
from bottega.models.tokenizer import load_tokenizer
from bottega.records import Chat, Labelled, Prompted, Text, Unusable
from bottega.tokenization.codec import Codec
from bottega.tokenization.text_encoder import TextEncoder


@pytest.mark.parametrize("record", [Prompted("here", "abc", "x"), Text("here", "ax"), Text("here", "a\ud800")])
def test_a_text_that_the_tokenizer_cannot_encode_is_unusable(tmp_path: Path, record: Any) -> None:
    (tmp_path / "text.txt").write_text("abc?:# \n")
    train_tokenizer([tmp_path / "text.txt"], 0, tmp_path / "out", "characters")
    characters = codec(load_tokenizer(str(tmp_path / "out")))
    with pytest.raises(Unusable, match="cannot encode"):
        characters.encode_answers(record)
    if isinstance(record, Text):
        with pytest.raises(Unusable, match="cannot encode"):
            characters.encode_document(record)
        with pytest.raises(Unusable, match="cannot encode"):
            characters.encode_pooled("here", record.text, 0)


@pytest.mark.parametrize("content", ["z", "a", "\ud800"])
def test_a_conversation_a_tokenizer_cannot_encode_is_unusable(tmp_path: Path, content: str) -> None:
    """The template itself may hold characters that the tokenizer does not know."""
    (tmp_path / "text.txt").write_text("abc")
    train_tokenizer([tmp_path / "text.txt"], 0, tmp_path / "out", "characters")
    with pytest.raises(Unusable, match="cannot encode"):
        codec(load_tokenizer(str(tmp_path / "out"))).encode_answers(Chat("here", (user("a"), assistant(content))))


def test_a_text_that_begins_itself_has_one_beginning(stories: Any) -> None:
    reader = codec(stories, too_long="split")
    (row,) = reader.encode_document(Text("here", "<s>Once upon a time</s>"))
    assert row.tokens.tolist() == [*stories("Once upon a time")["input_ids"], stories.eos_token_id]
    row = reader.encode_answers(Prompted("here", "<s>[INST] say a [/INST]", " a</s>"))
    assert row.tokens.tolist().count(stories.bos_token_id) == 1
    assert reader.encode_prompt("<s>Once") == reader.encode_prompt("Once")
    bare = codec(byte_level(bos="<s>", eos="</s>", merges=False))
    assert bare.encode_answers(Prompted("here", "<s>a", "b")).tokens[0] == bare.tokenizer.bos_token_id


def test_cutting_leaves_no_trace_in_the_tokenizer(bracketed: Any, tmp_path: Path) -> None:
    """What a run saves beside its model must not cut texts on its own."""
    cutting = codec(bracketed, max_length=6, too_long="truncate")
    cutting.encode_pooled("here", "abcdefgh", 0)
    bracketed.save_pretrained(str(tmp_path))
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    assert stored["truncation"] is None
    assert stored["padding"] is None


def test_stored_truncation_and_padding_do_not_act(bracketed: Any, tmp_path: Path) -> None:
    bracketed.backend_tokenizer.enable_truncation(4)
    bracketed.backend_tokenizer.enable_padding(length=12)
    bracketed.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    names = {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **names)
    assert tokenizer.backend_tokenizer.truncation is not None
    reading = codec(tokenizer, too_long="split")
    assert len(reading.encode_pooled("here", "abcdefgh", 0).tokens) == 10
    assert len(reading.encode_pooled("here", "abc", 0).tokens) == 5
    assert len(reading.encode_document(Text("here", "abcdefgh"))[0].tokens) == 10
    assert len(reading.encode_answers(Prompted("here", "abc", "de")).tokens) == 7


def encode_all(reader: Codec, records: Sequence[Any]) -> list[str]:
    found = []
    for record in records:
        ways = {
            Prompted: [reader.encode_answers],
            Text: [reader.encode_answers]
            if getattr(record, "answer", 0)
            else [reader.encode_answers, reader.encode_document],
            Labelled: [lambda record: reader.encode_pooled(record.where, record.text, 1)],
        }
        for way in ways[type(record)]:
            try:
                found.append(repr(way(record)))
            except Unusable as unusable:
                found.append(unusable.reason)
    return found


@pytest.mark.parametrize("policy", ["drop", "truncate", "split"])
@pytest.mark.parametrize("adds_eos", [False, True])
@pytest.mark.parametrize("trims", [False, True])
def test_encoding_ahead_changes_nothing(policy: str, adds_eos: bool, trims: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, adds_eos=adds_eos, trim_offsets=trims)
    reader = codec(tokenizer, max_length=12, too_long=policy, both_ways=True)
    pieces = ["the cat", " sat 🙂", "東京", "  \n", "é", "", " on the mat and looked at the dog"]
    pairs = list(itertools.product(pieces, pieces))
    records = [
        *(Prompted("here", one, other) for one, other in pairs),
        *(Text("here", one + other, len(one)) for one, other in pairs),
        *(Labelled("here", one + other, "a") for one, other in pairs),
    ]
    alone = encode_all(reader, records)
    assert any("truncation" in reason or "longer" in reason for reason in alone) or policy == "truncate"
    encodings = reader.encode_ahead(records)
    assert len(encodings) > len(pairs)
    with reader.precomputed(encodings):
        assert encode_all(reader, records) == alone


def test_special_tokens_written_in_a_text_are_located() -> None:
    tokenizer = byte_level(special=["<|a|>"], eos="</s>")
    encoder = TextEncoder(tokenizer, 100)
    a, end = tokenizer.convert_tokens_to_ids(["<|a|>", "</s>"])
    assert encoder.special_spans("x🙂<|a|>y</s></s>") == [(a, 2, 7), (end, 8, 12), (end, 12, 16)]
    assert encoder.special_spans("<|b|>") == []


def test_a_text_is_cut_where_the_tokenizer_cuts() -> None:
    tokenizer = byte_level(eos="</s>", adds_eos=True, merges=False)
    encoder = TextEncoder(tokenizer, 4)
    assert tokenizer.decode(encoder.encode_truncated("abcdef").ids) == "abc</s>"
    tokenizer.truncation_side = "left"
    assert tokenizer.decode(TextEncoder(tokenizer, 4).encode_truncated("abcdef").ids) == "def</s>"


def test_ahead_nothing_is_encoded_where_one_text_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abc")
    train_tokenizer([tmp_path / "text.txt"], 0, tmp_path / "out", "characters")
    encoder = TextEncoder(load_tokenizer(str(tmp_path / "out")), 100)
    assert len(encoder.encode_ahead([Text("1", "ab"), Text("2", "ab"), Text("3", "ba")])) == 2
    assert encoder.encode_ahead([Text("1", "ab"), Text("2", "xyz")]) == {}
