"""Text as it comes is the text as a whole."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import transformers

from bottega.tokenization.detokenize import REPLACEMENT_CHARACTER, StopStrings, TextStream
from making import make_tokenizer, shared_data

TEXTS = [
    "the cat sat on the mat",
    " leading and trailing ",
    "naïve café — “quoted” 日本語 🙂👩‍👩‍👧‍👦 שלום\nnext\n\n",
    "a\ufffdb",
    "",
]


@pytest.fixture(scope="module", params=["bytes", "stories"])
def tokenizer(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = shared_data("stories260K_hf") if request.param == "stories" else None
    folder = folder or make_tokenizer(tmp_path_factory.mktemp("tokenizer"), bos=False)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_add_up(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in ids]
    assert not any(piece.endswith(REPLACEMENT_CHARACTER) for piece in pieces)
    whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(pieces) + stream.end() == whole


def test_text_goes_on_after_other_text(tokenizer: Any) -> None:
    before, whole = (tokenizer(text)["input_ids"] for text in ("a dog", "a dog named Spot"))
    assert whole[: len(before)] == before
    stream = TextStream(tokenizer, after=before)
    assert "".join(map(stream.push, whole[len(before) :])) + stream.end() == " named Spot"


def test_no_character_is_split(tokenizer: Any) -> None:
    ids = tokenizer("🙂🙂")["input_ids"]
    stream = TextStream(tokenizer)
    shown = [piece for token in ids if (piece := stream.push(token)).strip()]
    assert [piece.strip() for piece in shown] == ["🙂", "🙂"]


def test_broken_bytes_come_at_the_end(tokenizer: Any) -> None:
    ids = tokenizer("a🙂")["input_ids"][:-1]
    stream = TextStream(tokenizer)
    shown = "".join(stream.push(token) for token in ids)
    assert shown.strip() == "a"
    assert stream.end().startswith(REPLACEMENT_CHARACTER)


def test_special_tokens_are_shown_when_asked_for(tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(make_tokenizer(tmp_path))
    ids = [tokenizer.bos_token_id, *tokenizer("cat", add_special_tokens=False)["input_ids"]]
    for special, expected in ((True, "<s>cat"), (False, "cat")):
        stream = TextStream(tokenizer, special=special)
        assert "".join(map(stream.push, ids)) + stream.end() == expected


@pytest.mark.parametrize("seed", range(20))
def test_stops_wherever_the_text_is_cut(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(200):
        text = "".join(draw.choice("ab\n") for _ in range(draw.randint(0, 30)))
        stops = ["".join(draw.choice("ab\n") for _ in range(draw.randint(1, 4))) for _ in range(draw.randint(0, 3))]
        places = [place for stop in stops if (place := text.find(stop)) >= 0]
        filter_, shown, rest = StopStrings(stops), "", text
        while rest and not filter_.met:
            size = draw.randint(1, 5)
            shown, rest = shown + filter_.push(rest[:size]), rest[size:]
        shown += filter_.end()
        # Of two stop strings the one that is complete first counts.
        assert filter_.met == bool(places)
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
        if not places:
            assert shown == text
        elif len(set(stops)) == 1:
            assert shown == text[: places[0]]


def test_text_that_begins_no_stop_string_comes_at_once() -> None:
    stops = StopStrings(["###", "\nUser:"])
    assert stops.push("hello #") == "hello "
    assert stops.push("1\nU") == "#1"
    assert stops.push("SA") == "\nUSA"
    assert stops.push("\nUser") == ""
    assert stops.push(": more") == ""
    assert stops.met
    assert stops.push("nothing") == stops.end() == ""
