"""Things that are slow to make."""

from __future__ import annotations

import os
from pathlib import Path

from bottega.studio.kept import Kept


def test_the_last_few_are_kept() -> None:
    made: list[str] = []

    def make(key: str) -> str:
        made.append(key)
        return key.upper()

    kept = Kept(make, 2)
    assert [kept.get(key) for key in ("a", "b", "a", "c", "a", "b")] == ["A", "B", "A", "C", "A", "B"]
    assert made == ["a", "b", "c", "b"]


def test_another_model_in_the_same_folder_is_made_anew(tmp_path: Path) -> None:
    count: list[str] = []
    kept = Kept(lambda source: count.append(source) or len(count), 2)
    config = tmp_path / "config.json"
    config.touch()
    assert [kept.get(str(tmp_path)), kept.get(str(tmp_path))] == [1, 1]
    os.utime(config, ns=(1, 1))
    assert kept.get(str(tmp_path)) == 2
