"""Names of what people make in the studio."""

from __future__ import annotations

import pytest

import bottega
from bottega.studio.names import check_name


def test_a_safe_name_stays_as_it_is() -> None:
    assert check_name("tickets_2024-v2", "a data set") == "tickets_2024-v2"


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".a", "a" * 61, "à", "a b", "a\n"])
def test_others_are_refused(name: str) -> None:
    with pytest.raises(bottega.DataError, match="not a name for a data set"):
        check_name(name, "a data set")
