"""What a run leaves is what it trained: the loss it ended with is the one that is measured of its result."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import bottega
from making import WORDS, make_model, write_jsonl

LORA = {"adapter": {"rank": 2}}
WAYS: dict[str, dict[str, Any]] = {
    "lora, averaged": {**LORA, "optim": {"ema": 0.9}},
    "averaged": {"optim": {"ema": 0.9}},
    "the best of lora": {**LORA, "optim": {"lr": 1.0}, "evaluate": {"every": 1, "stop_after": 2}},
    "bfloat16": {"model": {"dtype": "bfloat16"}},
    "eight bits": {**LORA, "model": {"quantize": "fp8"}},
    "both ends": {"adapter": {"rank": 2, "targets": ["embed_tokens", "lm_head"]}},
    "dropout and noise": {"adapter": {"rank": 2, "dropout": 0.3}, "optim": {"neftune": 5.0}},
}


@pytest.mark.parametrize(
    "way", [pytest.param(name, marks=[] if name == "lora, averaged" else pytest.mark.slow) for name in WAYS]
)
def test_the_loss_of_the_result_is_that_the_run_ended_with(way: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"the {a}", "completion": f" {b} sat"} for a, b in itertools.pairwise(WORDS)]
    document: dict[str, Any] = {
        "model": {"base": str(make_model(tmp_path / "model", tie_word_embeddings=True)), "dtype": "float32"},
        "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "validation": 0.3},
        "objective": {"kind": "sft"},
        "optim": {"steps": 4, "examples": 8, "lr": 3e-2},
    }
    for section, changed in WAYS[way].items():
        document[section] = {**document.get(section, {}), **changed}
    *_, finished = bottega.train(bottega.Recipe.parse(document), tmp_path / "run")
    measured = bottega.evaluate(tmp_path / "run", against=[], answers=0)
    (loss,) = (one.run for one in measured.estimates if one.metric == "loss")
    assert loss == pytest.approx(finished.validation_loss, abs=2e-4)
