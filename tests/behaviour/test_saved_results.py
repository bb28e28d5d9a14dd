"""What a run leaves is what it trained: the loss it ended with is the one that is measured of its result."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.data.train_tokenizer import train_tokenizer
from bottega.errors import DataError
from bottega.sampling import Sampling
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


def test_a_tokenizer_of_the_letters_it_saw_has_its_result(tmp_path: Path) -> None:
    """It has no token for what the chat template writes, and the result of a run that asked for one was lost."""
    (tmp_path / "text.txt").write_text("nel mezzo del cammin di nostra vita\n" * 20, encoding="utf-8")
    train_tokenizer([tmp_path / "text.txt"], 300, tmp_path / "letters", "characters")
    shape = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32}
    recipe = bottega.Recipe.parse(
        {
            "model": {"shape": shape, "tokenizer": str(tmp_path / "letters")},
            "data": {"train": str(tmp_path / "text.txt"), "max_length": 32},
            "objective": {"kind": "causal"},
            "optim": {"steps": 1, "examples": 2},
        }
    )
    list(bottega.train(recipe, tmp_path / "run"))
    model = bottega.load(tmp_path / "run")
    assert model.generate(["nel mezzo"], Sampling(tokens=3))[0][0].text
    for asked in ("nel 1265", [{"role": "user", "content": "nel"}]):
        with pytest.raises(DataError, match="the tokenizer cannot encode it"):
            model.generate([asked])
        with pytest.raises(DataError, match="the tokenizer cannot encode it"):
            next(model.stream(asked))
