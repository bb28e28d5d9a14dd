"""Evaluation rows that are also training rows."""

from __future__ import annotations

import pytest

from bottega.evaluation.contamination import find_leaked_rows
from bottega.records import Labelled, Record, Text

LONG = "the cat sat on the mat and the dog ran under the tree"


@pytest.mark.parametrize(
    ("row", "training", "leaked"),
    [
        (Text("a", LONG), Text("b", LONG), True),
        (Text("a", LONG), Text("b", f"  {LONG.replace(' ', '  ')}\n"), True),
        (Text("a", LONG), Text("b", f"{LONG} again"), False),
        (Labelled("a", LONG, "x"), Labelled("b", LONG, "x"), True),
        # The input alone is enough, unless it is short: many rows may share it.
        (Labelled("a", LONG, "x"), Labelled("b", LONG, "y"), True),
        (Labelled("a", "yes", "x"), Labelled("b", "yes", "y"), False),
        (Labelled("a", "yes", "x"), Labelled("b", "yes", "x"), True),
    ],
)
def test_a_row_leaks_whole_or_by_an_input_of_some_length(row: Record, training: Record, leaked: bool) -> None:
    assert find_leaked_rows([row], [training]) == ({0} if leaked else set())


def test_the_indices_of_all_leaked_rows_are_found() -> None:
    rows = [Text("1", f"{LONG} one"), Text("2", f"{LONG} two"), Text("3", f"{LONG} one")]
    assert find_leaked_rows(rows, iter([Text("t", f"{LONG} one"), Text("u", "other")])) == {0, 2}
    assert find_leaked_rows(rows, []) == find_leaked_rows([], rows) == set()
