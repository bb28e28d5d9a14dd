"""A LoRA adapter as a file of its own; the file itself is compared in tests/cli/test_olive.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import bottega
from bottega.errors import ModelError, RunError

pytest.importorskip("onnxruntime_genai")


def test_the_file_and_its_rank(two_adapters: Callable[..., list[Path]], wide: Path, tmp_path: Path) -> None:
    _, some = two_adapters(wide)
    path, rank = bottega.convert_adapter(some, tmp_path / "some")
    assert (path, rank) == (tmp_path / "some.onnx_adapter", 5)
    assert path.stat().st_size > 0
    with pytest.raises(RunError, match="already exists"):
        bottega.convert_adapter(some, path)


def test_what_cannot_be_converted(two_adapters: Callable[..., list[Path]], llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no adapter"):
        bottega.convert_adapter(llama, tmp_path / "out")
    with pytest.raises(ModelError, match="its attention has heads of 8"):
        bottega.convert_adapter(two_adapters(llama)[0], tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
