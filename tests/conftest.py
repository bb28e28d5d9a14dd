"""Fixtures; what they are made of stands in `making.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from making import WORDS, make_model, make_tokenizer, shared_data, sharpen, tiny_config, write_jsonl  # noqa: F401

# The files that take longest, by seconds of a processor.
MAX_ROW_CHARACTERS = (
    "test_objectives",
    "test_resume",
    "test_evaluate",
    "test_classifier",
    "test_bad_input",
    "test_interruption",
    "test_generator",
    "test_real_files",
    "test_baselines",
    "test_docs",
    "test_loop",
    "test_commands",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: else one worker ends with one of them while the other has nothing left to do."""
    places = {name: place for place, name in enumerate(MAX_ROW_CHARACTERS)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama checkpoint with tokenizer."""
    return make_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT checkpoint with tokenizer."""
    return make_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe of the given sections into the test's folder and returns its path."""

    def write(name: str = "recipe.yaml", **sections: Any) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(sections), encoding="utf-8")  # JSON is YAML
        return path

    return write
