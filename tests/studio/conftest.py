"""A studio for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from studios import Studio, run_studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """An empty studio."""
    with run_studio(tmp_path_factory.mktemp("studio")) as running:
        yield running
