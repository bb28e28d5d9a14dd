"""Which tokens are masked, with what, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from bottega.batch import Example, Row
from bottega.data.train_tokenizer import train_tokenizer
from bottega.errors import ModelError, RecipeError
from bottega.objectives.masked import Masked
from bottega.recipe.schema import Recipe
from bottega.records import Text
from bottega.tokenization.codec import Codec
from making import WORDS, make_tokenizer

LONG = " ".join(WORDS * 40)


@pytest.fixture(scope="module", params=["bytes", "wordpieces"])
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("tokenizer")
    name = make_tokenizer(folder / "bytes")
    if request.param == "wordpieces":
        (folder / "text.txt").write_text(LONG, encoding="utf-8")
        train_tokenizer([folder / "text.txt"], 45, folder / "pieces", "wordpieces")
        name = folder / "pieces"
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(name))
    return Codec(tokenizer, max_length=5000, too_long="split", both_ways=True)


def covered(codec: Codec, text: str = LONG, **options: Any) -> tuple[Row, np.ndarray]:
    """The row of a text, and its tokens as they were."""
    ((row,),) = Masked(**options).rows(Text("here", text), codec)
    whole = row.tokens.copy()
    whole[row.at] = row.label
    assert whole.tolist() == codec.tokenizer(text)["input_ids"]
    return row, whole


def test_eight_tenths_are_masked_one_is_another_and_one_stays(codec: Codec) -> None:
    row, whole = covered(codec, share=0.5)
    ordinary = codec.special_tokens.is_text[whole]
    assert len(row.at) == round(0.5 * ordinary.sum())
    assert ordinary[row.at].all()
    now = row.tokens[row.at]
    shares = [np.mean(now == codec.special_tokens.mask), np.mean(now == row.label)]
    # 400 tokens: five standard deviations are 0.1.
    assert shares[0] == pytest.approx(0.8, abs=0.1)
    assert shares[1] == pytest.approx(0.1, abs=0.1)
    assert codec.special_tokens.is_text[now[now != codec.special_tokens.mask]].all()
    assert (row.tokens[np.setdiff1d(np.arange(len(whole)), row.at)] == np.delete(whole, row.at)).all()


def test_static_masks_stay_and_dynamic_ones_move(codec: Codec) -> None:
    row, whole = covered(codec)
    again, _ = covered(codec)
    assert (row.tokens == again.tokens).all()
    example = Example("here", (row,))
    assert Masked(dynamic=False).augment(example, codec, 1) is example
    (one,), (same,), (other,) = (Masked().augment(example, codec, seed).rows for seed in (1, 1, 2))
    assert (one.tokens == same.tokens).all()
    assert one.at.tolist() != other.at.tolist()
    for drawn in (one, other):
        restored = drawn.tokens.copy()
        restored[drawn.at] = drawn.label
        assert (restored == whole).all()


def test_whole_words_are_masked_whole(codec: Codec) -> None:
    row, whole = covered(codec, whole_words=True)
    begins = np.flatnonzero(~codec.special_tokens.continues_word[whole] & codec.special_tokens.is_text[whole])
    assert len(begins) < codec.special_tokens.is_text[whole].sum(), "some word has several pieces"
    # Byte-level tokens show the first word of a text as one that goes on.
    begins = np.union1d(begins, np.flatnonzero(codec.special_tokens.is_text[whole])[:1])
    word = np.searchsorted(begins, np.flatnonzero(codec.special_tokens.is_text[whole]), side="right")
    chosen = np.isin(np.flatnonzero(codec.special_tokens.is_text[whole]), row.at)
    for number in set(word.tolist()):
        assert len(set(chosen[word == number].tolist())) == 1
    assert 0.15 * len(word) <= chosen.sum() <= 0.15 * len(word) + 10


def test_a_short_text_has_one_masked_token(codec: Codec) -> None:
    row, _ = covered(codec, "the cat")
    assert len(row.at) == 1


def test_a_long_text_becomes_several_rows(codec: Codec) -> None:
    short = Codec(codec.tokenizer, max_length=50, too_long="split", both_ways=True)
    rows = [row for (row,) in Masked().rows(Text("here", LONG), short)]
    whole = codec.tokenizer(LONG)["input_ids"]
    frame = [token for token in whole if not codec.special_tokens.is_text[token]]
    assert max(len(row.tokens) for row in rows) == 50
    seen: list[int] = []
    for row in rows:
        tokens = row.tokens.copy()
        tokens[row.at] = row.label
        assert [token for token in tokens.tolist() if not codec.special_tokens.is_text[token]] == frame
        seen += [token for token in tokens.tolist() if codec.special_tokens.is_text[token]]
    assert seen == [token for token in whole if codec.special_tokens.is_text[token]]


def test_fractions_above_1_are_refused(tmp_path: Path) -> None:
    objective = {"kind": "masked", "mask": 0.8, "random": 0.4}
    with pytest.raises(RecipeError, match="their sum must not exceed 1"):
        Recipe.parse({"model": {"base": "x"}, "data": {"train": "rows.jsonl"}, "objective": objective})


def test_a_tokenizer_without_a_mask(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(LONG, encoding="utf-8")
    train_tokenizer([tmp_path / "text.txt"], 300, tmp_path / "bytes")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "bytes"))
    codec = Codec(tokenizer, max_length=50, too_long="split", both_ways=True)
    with pytest.raises(ModelError, match="wordpieces"):
        Masked().rows(Text("here", LONG), codec)
