"""Fixtures; what they are made of stands in `making.py`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import bottega
from bottega.models.tokenizer import load_tokenizer
from making import CAT_ROWS, WORDS, make_model, make_tokenizer, shared_data, sharpen, tiny_config, write_jsonl  # noqa: F401

# The files that take longest, the longest first.
SLOWEST = (
    "test_fine_tuning",
    "test_runner",
    "test_each_objective",
    "test_lora",
    "test_runs",
    "test_local_server",
    "test_resumed_runs",
    "test_evaluate",
    "test_each_adapter",
    "test_olive",
    "test_serve",
    "test_documentation",
    "test_encoding",
    "test_bad_input",
    "test_gguf_lora",
    "test_exported_programs",
    "test_scheduler",
    "test_onnx",
    "test_classifier",
    "test_speed",
    "test_jobs",
    "test_native_step",
    "test_loop",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: else one worker ends with one of them while the other has nothing left to do."""
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No test cuts the power, and waiting until files reach the disk takes a tenth of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


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


@pytest.fixture
def train() -> Callable[..., Path]:
    """Trains a base into a folder, on rows and with sections replaced; returns the folder."""

    def train(base: Path, out: Path, rows: list[dict[str, Any]] = CAT_ROWS, **changes: Any) -> Path:
        recipe = {
            "model": {"base": str(base), "dtype": "float32"},
            "objective": {"kind": "sft"},
            "data": {"train": str(write_jsonl(out.with_suffix(".jsonl"), rows))},
            "optim": {"steps": 6, "examples": 4, "lr": 5e-2},
            **changes,
        }
        list(bottega.train(bottega.Recipe.parse(recipe), out=out))
        return out

    return train


PlugIn = Callable[[ModuleType, str, str], None]


def make_plug_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlugIn]:
    """A function (package, name, text) that makes a file a module of a plug-in folder until the fixture ends."""
    added: list[tuple[ModuleType, str]] = []
    with pytest.MonkeyPatch.context() as patch:

        def add(package: ModuleType, name: str, text: str) -> None:
            folder = tmp_path_factory.mktemp(package.__name__)
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
            patch.setattr(package, "__path__", [*package.__path__, str(folder)])
            added.append((package, name))

        yield add
    for package, name in added:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        # An imported submodule is also an attribute of its package.
        vars(package).pop(name, None)
        if hasattr(load := getattr(package, "load", None), "cache_clear"):
            load.cache_clear()


plug_in = pytest.fixture(make_plug_in)
module_plug_in = pytest.fixture(scope="module")(make_plug_in)


@pytest.fixture(scope="module")
def stories() -> Any:
    """A SentencePiece-like tokenizer: a BOS on every call, a space before every text, bytes for what is unknown."""
    return load_tokenizer(str(shared_data("stories260K_hf")))
