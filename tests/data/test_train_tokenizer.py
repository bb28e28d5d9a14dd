"""Tokenizers trained from files: what they read, they write."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
import transformers

from bottega.data.train_tokenizer import END_OF_TEXT, train_tokenizer
from bottega.errors import DataError, RunError
from bottega.models.tokenizer import load_tokenizer
from bottega.records import Text, Unusable
from bottega.tokenization.codec import Codec
from making import TEXT, shared_data

STRANGE = [
    "",
    " ",
    "  two  spaces  ",
    "\n\n\t\r\n ",
    "naïve café — «così»",
    "你好，世界 مرحبا שלום",
    "🙂🙂 👩🏽‍🚀 🇮🇹 e\u0301",
    "\x00\x01\x7f\u2028\ue000\ufffd\U0010ffff",
    f"a{END_OF_TEXT}b",
    "don't, I'll; 3.14 {x} <|x|> </s>",
]


def random_texts(count: int) -> list[str]:
    draw = random.Random(0)
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    return ["".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(1, 40))) for _ in range(count)]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


def back(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join([TEXT, TEXT.title(), "naïve café 🙂"] * 20), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("tokenizer") / "new" / "folder"
    assert train_tokenizer([corpus], 300, out) == 300
    return transformers.AutoTokenizer.from_pretrained(str(out))


def characters(folder: Path, text: str) -> Any:
    (folder / "text.txt").write_text(text, encoding="utf-8", newline="")
    train_tokenizer([folder / "text.txt"], 0, folder / "out", "characters")
    return transformers.AutoTokenizer.from_pretrained(str(folder / "out"))


# Bytes


def test_bytes_read_and_write_any_text(trained: Any) -> None:
    for text in [*STRANGE, *random_texts(200)]:
        assert back(trained, ids_of(trained, text)) == text


def test_bytes_write_any_text_when_loaded_for_a_run(corpus: Path, tmp_path: Path) -> None:
    train_tokenizer([corpus], 280, tmp_path / "out")
    tokenizer = load_tokenizer(str(tmp_path / "out"))
    codec = Codec(tokenizer, max_length=64, too_long="split")
    for text in [*STRANGE[1:], *random_texts(50)]:
        rows = codec.encode_document(Text("here", text))
        labels = [label for row in rows for label in row.label.tolist()]
        assert back(tokenizer, [int(rows[0].tokens[0]), *labels]) == text + END_OF_TEXT


@pytest.mark.parametrize("vocabulary", [257, 258, 270, 320])
def test_the_vocabulary_is_as_large_as_asked(corpus: Path, tmp_path: Path, vocabulary: int) -> None:
    assert train_tokenizer([corpus], vocabulary, tmp_path / "out") == vocabulary
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    assert len(tokenizer) == tokenizer.vocab_size == vocabulary
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocabulary))


def test_more_entries_than_the_text_gives_are_not_made_up(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab ab")
    size = train_tokenizer([tmp_path / "a.txt"], 10_000, tmp_path / "out")
    assert size == len(transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))) < 265


def test_a_vocabulary_below_the_bytes_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a vocabulary of 256 has no room") as caught:
        train_tokenizer([corpus], 256, tmp_path / "out")
    assert caught.value.where == "--vocab"
    assert not (tmp_path / "out").exists()


def test_more_entries_make_shorter_rows(corpus: Path, tmp_path: Path) -> None:
    lengths = []
    for vocabulary in (257, 280, 320, 380):
        train_tokenizer([corpus], vocabulary, tmp_path / str(vocabulary))
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / str(vocabulary)))
        lengths.append(len(ids_of(tokenizer, TEXT)))
    assert lengths == sorted(set(lengths), reverse=True)
    assert lengths[0] == len(TEXT)
    assert lengths[-1] < len(TEXT) / 2


def test_the_end_of_text_is_one_token_and_special(trained: Any) -> None:
    assert trained.eos_token == trained.bos_token == END_OF_TEXT
    assert ids_of(trained, END_OF_TEXT) == [trained.eos_token_id]
    assert trained.decode([trained.eos_token_id], skip_special_tokens=True) == ""
    assert ids_of(trained, "the cat")[0] != trained.bos_token_id  # nothing is added unasked
    assert ids_of(trained, "the cat")[-1] != trained.eos_token_id


def test_training_twice_gives_the_same(corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_tokenizer([corpus], 290, tmp_path / name)
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()


def test_the_tokenizer_talks(trained: Any, tmp_path: Path) -> None:
    """With bottega's own template, its end-of-text token ends every answer."""
    trained.save_pretrained(str(tmp_path))
    tokenizer = load_tokenizer(str(tmp_path))
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text.endswith(f"sat{END_OF_TEXT}\n\n")
    assert not text.startswith(END_OF_TEXT)


def test_every_string_of_every_row_is_read(tmp_path: Path) -> None:
    rows = [{"a": "zq " * 50, "n": 7}, {"messages": [{"role": "user", "content": "xj " * 50}], "b": {"c": "vk " * 50}}]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "more.csv").write_text("text\n" + "wb " * 50 + "\n")
    train_tokenizer([tmp_path / "rows.jsonl", tmp_path / "more.csv"], 266, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    for word in (" zq", " xj", " vk", " wb"):
        assert len(ids_of(tokenizer, word)) == 1


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_a_folder_in_use_is_left_alone(corpus: Path, tmp_path: Path, kind: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(RunError, match="not empty"):
        train_tokenizer([corpus], 300, tmp_path / "out", kind)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError):
        train_tokenizer([corpus], 300, tmp_path / "file", kind)


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_an_empty_folder_is_used(corpus: Path, tmp_path: Path, kind: Any) -> None:
    train_tokenizer([corpus], 300, tmp_path, kind)
    assert (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_what_cannot_be_read_leaves_nothing(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(DataError, match="no such file"):
        train_tokenizer([tmp_path / "none.txt"], 300, tmp_path / "out", kind)
    assert not (tmp_path / "out").exists()


def test_real_italian(tmp_path: Path) -> None:
    text = shared_data("it_promessi_sposi/promessi_sposi.txt").read_text(encoding="utf-8")[:60_000]
    (tmp_path / "it.txt").write_text(text, encoding="utf-8")
    assert train_tokenizer([tmp_path / "it.txt"], 600, tmp_path / "out") == 600
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    ids = ids_of(tokenizer, text)
    assert back(tokenizer, ids) == text
    assert len(ids) < len(text) / 2


# Characters


def test_characters_are_exactly_those_of_the_text(tmp_path: Path) -> None:
    text = "aébà 🙂\n\r\n\t''“e\u0301 <|endoftext|><unknown>"
    tokenizer = characters(tmp_path, text)
    assert sorted(tokenizer.get_vocab()) == sorted(set(text))
    assert len(tokenizer) == len(set(text))
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(set(text))))


def test_characters_read_and_write_their_text(tmp_path: Path) -> None:
    text = "aébà 🙂\n\r\n\t''“e\u0301  ,. Two  spaces .\n"
    tokenizer = characters(tmp_path, text)
    assert len(ids_of(tokenizer, text)) == len(text)
    assert back(tokenizer, ids_of(tokenizer, text)) == text
    draw = random.Random(0)
    for _ in range(50):
        some = "".join(draw.choices(text, k=20))
        assert [tokenizer.decode([token]) for token in ids_of(tokenizer, some)] == list(some)
        assert back(tokenizer, ids_of(tokenizer, some)) == some


def test_characters_have_no_special_tokens(tmp_path: Path) -> None:
    tokenizer = characters(tmp_path, "abc")
    assert tokenizer.eos_token is None
    assert tokenizer.bos_token is None
    assert not tokenizer.added_tokens_decoder


def test_characters_come_from_every_string(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": "xy", "b": ["z", {"c": "w"}], "n": 1}\n')
    assert train_tokenizer([tmp_path / "rows.jsonl"], 0, tmp_path / "out", "characters") == 4


@pytest.mark.parametrize("unknown", ["é", "🙂", "b", "\n", " "])
def test_a_character_that_never_occurred_is_refused(tmp_path: Path, unknown: str) -> None:
    codec = Codec(characters(tmp_path, "acd"), max_length=64, too_long="split")
    assert len(codec.encode_document(Text("here", "acda"))[0].tokens) == 4
    with pytest.raises(Unusable, match="cannot encode"):
        codec.encode_document(Text("here", f"ac{unknown}d"))


@pytest.mark.parametrize("text", [string.digits, "бвг", "ACGT"])
def test_characters_are_loaded_for_a_run_whatever_they_are(tmp_path: Path, text: str) -> None:
    characters(tmp_path, text)
    tokenizer = load_tokenizer(str(tmp_path / "out"))
    assert len(ids_of(tokenizer, text)) == len(text)


def test_real_characters(tmp_path: Path) -> None:
    path = shared_data("tinyshakespeare/input.txt")
    assert train_tokenizer([path], 0, tmp_path / "out", "characters") == 65
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    text = path.read_text(encoding="utf-8")[:5000]
    assert back(tokenizer, ids_of(tokenizer, text)) == text
