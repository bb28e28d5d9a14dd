"""The pooling of an embedding model in the files of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bottega.models.pooling import POOLING_FILE, read_pooling_config, write_pooling_config


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
def test_the_pooling_that_was_written_is_read(pooling: Any, tmp_path: Path) -> None:
    write_pooling_config(tmp_path, pooling, 48)
    assert read_pooling_config(str(tmp_path)) == pooling
    settings = json.loads((tmp_path / POOLING_FILE).read_text())
    assert settings.pop("word_embedding_dimension") == 48
    assert sum(settings.values()) == 1
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling", "Normalize"]
    assert all((tmp_path / module["path"]).is_dir() for module in modules)


def test_a_folder_that_has_a_pooling_is_not_changed(tmp_path: Path) -> None:
    write_pooling_config(tmp_path, "mean", 8)
    with pytest.raises(FileExistsError):
        write_pooling_config(tmp_path, "last", 8)
    assert read_pooling_config(str(tmp_path)) == "mean"


@pytest.mark.parametrize("settings", [None, {}, {"pooling_mode_max_tokens": True}, {"pooling_mode_cls_token": False}])
def test_an_unsupported_or_missing_pooling_is_none(settings: dict[str, Any] | None, tmp_path: Path) -> None:
    if settings is not None:
        (tmp_path / POOLING_FILE).parent.mkdir()
        (tmp_path / POOLING_FILE).write_text(json.dumps(settings))
    assert read_pooling_config(str(tmp_path)) is None
    assert read_pooling_config("nobody/nothing") is None, "a hub id that is not here"
