"""Counts of parts of the data add up to those of the whole."""

from __future__ import annotations

from collections import Counter

from bottega.tokenization.tally import Tally


def test_what_is_taken_is_gone_and_adds_up() -> None:
    tally, whole = Tally(), Tally()
    for names in ("b", "ab"):
        tally.truncated += 2
        tally.unused_fields.update(names)
        whole.add(tally.take())
        assert tally == Tally()
    assert whole == Tally(truncated=4, unused_fields=Counter("bab"))
    assert [name for name, _ in Tally(unused_fields=Counter("ba")).unused_fields.most_common()] == ["b", "a"]


def test_ties_are_in_the_order_in_which_they_came() -> None:
    whole = Tally()
    for names in ("b", "a"):
        whole.add(Tally(missing_openings=Counter(names)))
    assert whole.missing_openings.most_common() == [("b", 1), ("a", 1)]
