"""Which texts are told with their middle last, and that nothing of them is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers

from bottega.batch import Example
from bottega.data.train_tokenizer import train_tokenizer
from bottega.errors import DataError, ModelError
from bottega.objectives.causal import Causal
from bottega.records import Text
from bottega.tokenization.codec import Codec
from bottega.tokenization.special_tokens import FIM_TOKENS
from making import WORDS, make_tokenizer

LONG = " ".join(WORDS * 3)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> transformers.PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("fim")
    (folder / "text.txt").write_text(LONG, encoding="utf-8")
    assert train_tokenizer([folder / "text.txt"], 300, folder / "made", fim=True) <= 300
    return transformers.AutoTokenizer.from_pretrained(str(folder / "made"))


def codec(tokenizer: transformers.PreTrainedTokenizerFast, length: int = 500) -> Codec:
    return Codec(tokenizer, max_length=length, too_long="split")


def told(made: Codec, seed: int, **options: float) -> np.ndarray:
    """The tokens of a text as one update takes it, each but the first predicted."""
    objective = Causal(fim=1.0, **options)  # type: ignore[arg-type]
    ((row,),) = objective.rows(Text("here", LONG), made)
    (drawn,) = objective.augment(Example("here", (row,)), made, seed).rows
    assert np.array_equal(drawn.label, drawn.tokens[1:])
    assert np.array_equal(drawn.at, np.arange(len(drawn.tokens) - 1))
    assert (drawn.weight == 1).all()
    return drawn.tokens


@pytest.mark.parametrize("seed", range(20))
def test_beginning_end_and_middle_are_the_text(tokenizer: transformers.PreTrainedTokenizerFast, seed: int) -> None:
    made = codec(tokenizer)
    prefix, suffix, middle = made.special_tokens.fim
    whole = [*tokenizer(LONG)["input_ids"], tokenizer.eos_token_id]
    for end_first in (0.0, 1.0):
        ids = told(made, seed, fim_end_first=end_first).tolist()
        assert ids[0] == prefix
        if end_first:
            assert ids[1] == suffix
            last, (first_and_hole) = ids[2 : ids.index(middle)], ids[ids.index(middle) + 1 :]
            assert first_and_hole[:-1] + last + whole[-1:] == whole
        else:
            first, last = ids[1 : ids.index(suffix)], ids[ids.index(suffix) + 1 : ids.index(middle)]
            hole = ids[ids.index(middle) + 1 : -1]
            assert first + hole + last + whole[-1:] == whole
        assert ids[-1] == tokenizer.eos_token_id


def test_cuts_and_orders_are_random_and_reproducible(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    made = codec(tokenizer)
    found = [told(made, seed).tolist() for seed in range(40)]
    assert len({tuple(ids) for ids in found}) > 35
    share = np.mean([ids[1] == made.special_tokens.fim[1] for ids in found])
    assert 0.25 < share < 0.75
    assert found == [told(made, seed).tolist() for seed in range(40)]


def test_it_stays_within_the_length(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    whole = len(tokenizer(LONG)["input_ids"]) + 1
    for length in (whole, whole + 1, whole + 3):
        ids = told(codec(tokenizer, length), 0)
        assert len(ids) == min(length, whole + 3)
        assert ids[-1] == tokenizer.eos_token_id


def test_a_fraction_of_texts_is_reordered_and_by_default_none(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    made = codec(tokenizer)
    half = Causal(fim=0.5)
    ((row,),) = half.rows(Text("here", LONG), made)
    changed = [half.augment(Example("here", (row,)), made, seed).rows[0] is not row for seed in range(200)]
    assert 0.4 < np.mean(changed) < 0.6
    example = Example("here", (row,))
    assert Causal().augment(example, made, 3) is example


def test_blocks_of_a_long_text(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    """A block in the middle of a text has no end to keep; what it predicts beyond its last token is kept too."""
    made, objective = codec(tokenizer, 20), Causal(fim=1.0, fim_end_first=0.0)
    blocks = objective.rows(Text("here", LONG), made)
    assert len(blocks) > 2
    for seed, (row,) in enumerate(blocks):
        (drawn,) = objective.augment(Example("here", (row,)), made, seed).rows
        assert len(drawn.tokens) <= 20
        kept = sorted(set(drawn.tokens.tolist()) - set(made.special_tokens.fim))
        assert set(kept) <= {*row.tokens.tolist(), *row.label.tolist()}


def test_a_tokenizer_without_the_tokens(tmp_path: Path) -> None:
    plain = transformers.AutoTokenizer.from_pretrained(str(make_tokenizer(tmp_path / "plain")))
    with pytest.raises(ModelError, match=r"no fill-in-the-middle tokens") as caught:
        Causal(fim=0.1).rows(Text("here", LONG), codec(plain))
    assert "--fim" in str(caught.value.fix)
    plain.add_special_tokens({"additional_special_tokens": list(FIM_TOKENS[1])})
    assert len(set(codec(plain).special_tokens.fim)) == 3
    with pytest.raises(DataError, match="only a byte-level tokenizer"):
        train_tokenizer([tmp_path / "text.txt"], 300, tmp_path / "pieces", "wordpieces", fim=True)
