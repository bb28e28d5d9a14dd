"""What the machine can do, and what is missing."""

from __future__ import annotations

import pytest

from bottega.hardware import doctor


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    assert doctor._missing_extras() == ["no base can be kept in 4 bits (QLoRA): pip install 'bottega[quantize]'"]
