"""Things that are slow to make."""

from __future__ import annotations

from bottega.studio.kept import Kept


def test_the_last_few_are_kept() -> None:
    made: list[str] = []

    def make(key: str) -> str:
        made.append(key)
        return key.upper()

    kept = Kept(make, 2)
    assert [kept.get(key) for key in ("a", "b", "a", "c", "a", "b")] == ["A", "B", "A", "C", "A", "B"]
    assert made == ["a", "b", "c", "b"]
