"""Exports are timed in a process of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

import bottega
from bottega.errors import ModelError
from bottega.exporting._speed import measure_speed


@pytest.mark.parametrize("kind", ["llama", pytest.param("bert", marks=pytest.mark.slow)])
def test_generating_and_reading(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    bottega.export(model, tmp_path / "out")
    speed = measure_speed(tmp_path / "out", "cpu")
    assert speed.tokens_per_second > 0
    assert speed.memory >= 0


def test_what_cannot_be_timed_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it cannot be timed"):
        measure_speed(tmp_path / "nowhere", "cpu")
