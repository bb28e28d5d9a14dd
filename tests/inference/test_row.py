"""A continuation while it is generated."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import transformers

from bottega.inference.row import GeneratedRow, uniform_numbers
from bottega.sampling import Sampling
from making import make_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(make_tokenizer(tmp_path, bos=False))


def row_of(tokenizer: Any, *, streamed: bool = True, **settings: Any) -> GeneratedRow:
    return GeneratedRow(
        0,
        (7,),
        Sampling(**settings),
        tokenizer=tokenizer,
        ends=frozenset({tokenizer.eos_token_id}),
        uniform=iter(()),
        constraints=None,
        streamed=streamed,
    )


@pytest.mark.parametrize("streamed", [True, False])
def test_its_text_and_why_it_ends(tokenizer: Any, streamed: bool) -> None:
    ids = tokenizer("the cat sat").input_ids
    for settings, tokens, text, reason in (
        ({}, [*ids, tokenizer.eos_token_id], "the cat sat", "end"),
        ({"tokens": len(ids)}, ids, "the cat sat", "length"),
    ):
        row = row_of(tokenizer, streamed=streamed, **settings)
        pieces = [row.add(token) for token in tokens]
        assert "".join(piece.text for piece in pieces) == text
        assert [piece.reason for piece in pieces] == [None] * (len(tokens) - 1) + [reason]
        assert bool("".join(piece.text for piece in pieces[:-1])) == streamed


def test_a_stop_string_is_not_part_of_it(tokenizer: Any) -> None:
    row, pieces = row_of(tokenizer, stop=(" sat",)), []
    for token in tokenizer("the cat sat on").input_ids:
        pieces.append(row.add(token))
        if row.reason:
            break
    assert ("".join(piece.text for piece in pieces), row.reason) == ("the cat", "stop")


def test_random_numbers_follow_from_seed_prompt_and_number() -> None:
    def first(*key: Any) -> list[float]:
        return list(islice(uniform_numbers(*key), 3))

    assert first(0, (7, 8), 0) == first(0, (7, 8), 0)
    keys = [(0, (7, 8), 0), (1, (7, 8), 0), (0, (7, 9), 0), (0, (7, 8), 1)]
    assert len({tuple(first(*key)) for key in keys}) == 4
