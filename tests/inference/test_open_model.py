"""Opening a model for use: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.errors import DataError, ModelError
from bottega.inference.open_model import UNLIMITED, find_model, open_model, text_errors
from bottega.records import Unusable


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        find_model(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="no such folder"):
        find_model("./nowhere")
    assert find_model("owner/name").kind == "hub id"


def test_a_relative_path_becomes_absolute(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(llama.parent)
    assert find_model(llama.name).name == str(llama)


def test_inputs_are_limited_by_the_positions_of_the_model(llama: Path) -> None:
    opened = open_model(str(llama), "language", dtype="float32", device="cpu")
    assert opened.codec().max_length == (opened.limit or UNLIMITED)
    assert opened.codec(7, too_long="truncate").max_length == 7


def test_a_text_that_cannot_be_encoded_is_quoted() -> None:
    with pytest.raises(DataError, match="half a character"), text_errors("the \ud800"):
        pytest.fail("a lone surrogate is refused before it is encoded")
    with pytest.raises(DataError, match="no tokens") as caught, text_errors("the cat"):
        raise Unusable("no tokens")
    assert caught.value.where == "the text 'the cat'"
