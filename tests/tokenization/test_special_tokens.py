"""The ids of special tokens by their role, and an error that says what to do where a tokenizer lacks one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_styles import byte_level, codec

from bottega.data.train_tokenizer import train_tokenizer
from bottega.errors import ModelError
from bottega.models.tokenizer import load_tokenizer
from bottega.tokenization.special_tokens import FIM_TOKENS, SpecialTokens
from making import TEXT, make_tokenizer


def special_tokens(tokenizer: Any) -> SpecialTokens:
    return codec(tokenizer).special_tokens


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("adds_eos", [False, True])
def test_the_frame_is_what_the_tokenizer_adds_around_a_text(adds_bos: bool, adds_eos: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=adds_bos, adds_eos=adds_eos)
    tokens = special_tokens(tokenizer)
    before, after = tokens.frame
    assert before.tolist() == [tokenizer.bos_token_id] * adds_bos
    assert after.tolist() == [tokenizer.eos_token_id] * adds_eos
    inner = np.array(tokenizer("the cat", add_special_tokens=False)["input_ids"])
    framed = tokens.add_frame(inner)
    assert framed.tolist() == tokenizer("the cat")["input_ids"]
    assert tokens.remove_frame(framed).tolist() == inner.tolist()


@pytest.mark.parametrize("names", FIM_TOKENS)
def test_fill_in_the_middle_tokens_of_every_spelling(names: tuple[str, str, str]) -> None:
    tokenizer = byte_level(special=names[::-1])
    assert special_tokens(tokenizer).fim == tuple(tokenizer.convert_tokens_to_ids(list(names)))


def test_two_of_three_fill_in_the_middle_tokens_are_not_enough() -> None:
    with pytest.raises(ModelError, match="no fill-in-the-middle tokens"):
        _ = special_tokens(byte_level(special=FIM_TOKENS[0][:2])).fim


def test_sentinels_are_an_unbroken_sequence() -> None:
    tokenizer = byte_level(special=[f"<extra_id_{number}>" for number in (1, 0, 2, 4)])
    wanted = [tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(3)]
    assert special_tokens(tokenizer).sentinels.tolist() == wanted
    with pytest.raises(ModelError, match="no sentinel tokens"):
        _ = special_tokens(byte_level(special=["<extra_id_1>"])).sentinels


def test_the_mask_token(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(make_tokenizer(tmp_path)))
    assert special_tokens(tokenizer).mask == tokenizer.convert_tokens_to_ids("<mask>")
    with pytest.raises(ModelError, match="no mask token") as caught:
        _ = special_tokens(byte_level()).mask
    assert caught.value.where == "model.tokenizer"


def test_added_tokens_are_not_text() -> None:
    tokenizer = byte_level(eos="</s>", added=["<think>"])
    tokens = special_tokens(tokenizer)
    added = tokenizer.convert_tokens_to_ids(["</s>", "<think>"])
    assert np.flatnonzero(~tokens.is_text).tolist() == sorted(added)
    assert set(tokens.text_tokens.tolist()) == set(range(len(tokenizer))) - set(added)


@pytest.mark.parametrize("kind", ["wordpieces", "bytes"])
def test_tokens_that_continue_a_word(tmp_path: Path, kind: str) -> None:
    """Marked by the continuing piece in WordPiece, and by the beginning one in byte-level BPE."""
    if kind == "bytes":
        tokenizer = byte_level(merges=False)
    else:
        (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
        train_tokenizer([tmp_path / "text.txt"], 60, tmp_path / "out", kind)
        tokenizer = load_tokenizer(str(tmp_path / "out"))
    encoding = tokenizer("catdog on", add_special_tokens=False)
    words, ids = encoding.word_ids(), encoding["input_ids"]
    starts = [place for place, word in enumerate(words) if place and word != words[place - 1]]
    continues = special_tokens(tokenizer).continues_word[ids].tolist()
    assert len(starts) == 1, "two words"
    assert continues[1:] == [place not in starts for place in range(1, len(ids))]
    assert sum(continues) >= 2
