"""Devices by name or by memory."""

from __future__ import annotations

import pytest

from bottega.errors import RunError
from bottega.hardware.datasheets import DEVICES, find_datasheet


def test_a_device_is_found_by_name_or_by_memory() -> None:
    assert find_datasheet(None) is find_datasheet("cpu") is None
    assert find_datasheet("H200") == DEVICES["h200"]
    by_memory = find_datasheet("24 GB")
    assert by_memory is not None
    assert by_memory.memory == 24_000_000_000
    assert by_memory.flops == 0


@pytest.mark.parametrize("name", ["gpu", "24", "xGB", "infGB", "nanGB", "", "G"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(RunError, match="unknown device"):
        find_datasheet(name)
