"""A head beside the language head, and an objective that uses it: a file each, and no other change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

import bottega
from bottega import objectives
from bottega.models import heads
from making import page_file, write_jsonl


@pytest.fixture
def plugged(plug_in: Callable[..., None]) -> None:
    """The two files of the page on extending."""
    plug_in(heads, "value", page_file("src/bottega/models/heads/value.py"))
    plug_in(objectives, "valued", page_file("src/bottega/objectives/valued.py"))


@pytest.mark.parametrize("adapter", [None, {"rank": 2}], ids=["full", "lora"])
@pytest.mark.usefixtures("plugged")
def test_a_value_head_is_trained_beside_the_language_head(
    adapter: dict[str, int] | None, llama: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": f"the {word} ", "completion": "sat on the mat"} for word in ("cat", "dog", "tree", "mat")]
    recipe = bottega.Recipe.parse(
        {
            "model": {"base": str(llama), "dtype": "float32"},
            "adapter": adapter,
            "objective": {"kind": "valued"},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows))},
            "optim": {"steps": 12, "examples": 4, "lr": 1e-2},
            "save": {"every": 6},
        }
    )
    events = list(bottega.train(recipe, out=tmp_path / "run"))
    errors = [event.metrics["value_error"] for event in events if event.type == "stepped"]
    assert errors[-1] < errors[0] / 2
    (result,) = (path for path in (tmp_path / "run").glob("*/*.safetensors") if path.parent.name != "checkpoints")
    assert any("value_head" in name for name in load_file(result)), "it is saved with the rest"
    stopped = bottega.train(recipe, out=tmp_path / "cut")
    for event in stopped:
        if event.type == "saved":
            stopped.close()
            break
    list(bottega.resume(tmp_path / "cut"))
    again = tmp_path / "cut" / result.parent.name / result.name
    assert again.read_bytes() == result.read_bytes(), "resumed = uninterrupted"
