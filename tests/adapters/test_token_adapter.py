"""What prompt tuning and prefix tuning have in common: labels, counts, and models that they are not for."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM

from bottega import adapters
from bottega.adapters import InstallOptions
from bottega.errors import ModelError


@pytest.mark.parametrize(("kind", "title"), [("prompt", "prompt tuning"), ("prefix", "prefix tuning")])
def test_it_is_for_decoders(kind: str, title: str, bert: Path) -> None:
    adapter = adapters.build({"kind": kind, "tokens": 7})
    assert (adapter.label, adapter.virtual_tokens) == (f"{title} with 7 tokens", 7)
    with pytest.raises(ModelError, match=f"{title} is for decoders"):
        adapter.install(AutoModelForMaskedLM.from_pretrained(bert), InstallOptions())
