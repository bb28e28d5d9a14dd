"""Opening a model for use: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.errors import DataError, ModelError
from bottega.inference.open_model import UNLIMITED, find_model, open_model, text_errors
from bottega.records import Unusable


def test_a_name_is_an_absolute_path_or_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model("model").name == find_model("./model").name == str(tmp_path / "model")
    assert find_model("owner/model").name == "owner/model"
    for name in ("./none", "/none", "~/none-of-this-name"):
        with pytest.raises(ModelError, match="no such folder") as caught:
            find_model(name)
        assert caught.value.where == name


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
