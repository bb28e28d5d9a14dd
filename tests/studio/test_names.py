"""Names of what people make in the studio."""

from __future__ import annotations

import pytest

import bottega
from bottega.studio.names import check_name, derived_name


def test_a_safe_name_stays_as_it_is() -> None:
    assert check_name("tickets_2024-v2", "a data set") == "tickets_2024-v2"


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".a", "a" * 61, "à", "a b", "a\n"])
def test_others_are_refused(name: str) -> None:
    with pytest.raises(bottega.DataError, match="not a name for a data set"):
        check_name(name, "a data set")


def test_what_is_made_of_something_has_a_name_of_its_own() -> None:
    assert derived_name("own", "preferences") == "own-preferences"
    names = {derived_name("a" * 59 + end, "preferences") for end in "bc"}
    assert len(names) == 2
    assert all(check_name(name, "a data set").endswith("-preferences") for name in names)
