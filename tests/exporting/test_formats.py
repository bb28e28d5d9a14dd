"""Formats by name, and what is said of those that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.errors import ModelError, RecipeError
from bottega.exporting._formats import check_format, check_precision, load_format, refuse
from bottega.exporting._source import open_trained
from making import make_model


def test_a_format_and_its_precisions() -> None:
    merged = load_format("merged")
    assert load_format("hf").kind == merged.kind
    assert [check_precision(merged, name) for name in (None, "none", "bf16")] == ["fp32", "fp32", "bf16"]
    with pytest.raises(RecipeError, match="merged has no precision 'int4'") as caught:
        check_format("merged", "int4")
    assert caught.value.fix == "one of fp32, bf16, fp16"
    with pytest.raises(RecipeError, match="unknown export format 'atuo'") as caught:
        check_format("atuo")
    assert "auto" in str(caught.value.fix)


def test_a_refusal_names_what_can_hold_the_model(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    model = open_trained(str(make_model(tmp_path / "model", "mamba")))
    with pytest.raises(ModelError, match="GGUF cannot hold this model: mamba is not among") as caught:
        refuse(load_format("gguf"), model)
    assert caught.value.fix == "formats that can hold it: merged"
