"""Exports are timed in a process of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

import bottega
from bottega.errors import ModelError
from bottega.exporting._speed import measure_speed


def test_generating_and_reading(llama: Path, bert: Path, tmp_path: Path) -> None:
    for model in (llama, bert):
        bottega.export(model, tmp_path / model.name)
        speed = measure_speed(tmp_path / model.name, "cpu")
        assert speed.tokens_per_second > 0
        assert speed.memory >= 0
    with pytest.raises(ModelError, match="it cannot be timed"):
        measure_speed(tmp_path / "nowhere", "cpu")
