"""Runs that begin where another ended: SFT with LoRA, then DPO with LoRA, is a line in the recipe."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.errors import BottegaError, ModelError
from bottega.models.source import locate
from bottega.records import Chat, Message
from bottega.runs.atomic_files import checksum
from bottega.sampling import Sampling
from bottega.tokenization.codec import Codec
from making import WORDS, write_jsonl

Train = Callable[..., Path]


@pytest.fixture
def train(llama: Path, tmp_path: Path) -> Train:
    """Runs a recipe of SFT, or of DPO, with sections replaced; returns the run's folder."""
    answers = [{"prompt": f"the {a}", "completion": f" {b} sat"} for a, b in itertools.pairwise(WORDS)]
    pairs = [
        {"prompt": f"the {a}", "chosen": f" {b}", "rejected": f" {a} on"}
        for a, b in zip(WORDS, WORDS[2:], strict=False)
    ]
    rows = {"sft": write_jsonl(tmp_path / "sft.jsonl", answers), "dpo": write_jsonl(tmp_path / "dpo.jsonl", pairs)}

    def run(name: str, kind: str, **sections: Any) -> Path:
        document = {
            "model": {"base": str(llama), "dtype": "float32"},
            "data": {"train": str(rows[kind])},
            "objective": {"kind": kind},
            "optim": {"steps": 4, "examples": 8, "lr": 3e-2},
        }
        recipe = bottega.Recipe.parse({**document, **sections})
        return folder_of(recipe, tmp_path / name)

    return run


def folder_of(recipe: bottega.Recipe, folder: Path) -> Path:
    list(bottega.train(recipe, folder))
    return folder


def losses(run: Path) -> list[float]:
    from bottega.runs.store import history

    return [event["loss"] for event in history(run) if event["type"] == "stepped"]


def logp(model: Any) -> np.ndarray:
    """What a model says of a few answers."""
    codec: Codec = model.codec
    rows = [
        row
        for word in WORDS[:4]
        for row in [codec.encode_answers(Chat("a", (Message("user", word), Message("assistant", "cat sat"))))]
    ]
    return np.asarray(model.logp(rows))


def written(model: Any) -> list[list[int]]:
    settings = Sampling(tokens=12, temperature=0.0)
    return [one.tokens for (one,) in model.generate([f"the {word}" for word in WORDS[:6]], settings)]


@pytest.mark.parametrize("quantize", ["none", "fp8", pytest.param("nf4", marks=pytest.mark.slow)])
def test_dpo_on_a_run_that_ended_in_an_adapter(quantize: str, train: Train, llama: Path, tmp_path: Path) -> None:
    base = {"base": str(llama), "dtype": "float32", "quantize": quantize}
    sft = train("sft-1", "sft", model=base, adapter={"rank": 4})
    model = {"base": str(sft), "dtype": "float32", "quantize": quantize}
    dpo = train("dpo-1", "dpo", model=model, adapter={"rank": 2})
    assert losses(dpo)[0] == pytest.approx(math.log(2), abs=1e-6), "it is compared with what it begins as"
    assert losses(dpo)[-1] < losses(dpo)[0]
    loaded = bottega.load(dpo, dtype="float32")
    assert locate(str(dpo)).base == str(dpo / "base")
    if quantize == "none":
        with loaded.untuned() as before:
            assert written(before) == written(bottega.load(sft, dtype="float32"))
    assert written(loaded) != []
    # What another tool makes of the folders.
    if quantize == "none":
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(dpo / "base"), str(dpo / "adapter"))
        tokens = torch.tensor([[0, 11, 12, 13]])
        with torch.no_grad():
            wanted = plain(tokens).logits[0, -1].argmax()
        found = loaded.writer.write([[0, 11, 12, 13]], Sampling(tokens=1, temperature=0.0))[0][0].tokens[0]
        assert int(wanted) == found


def test_such_a_run_is_cut_resumed_and_measured(train: Train, tmp_path: Path) -> None:
    sft = train("sft-1", "sft", adapter={"rank": 4})
    sections: dict[str, Any] = {
        "model": {"base": str(sft), "dtype": "float32"},
        "adapter": {"rank": 2, "dropout": 0.1},
        "data": {"train": str(tmp_path / "dpo.jsonl"), "validation": 0.3},
        "objective": {"kind": "dpo"},
        "optim": {"steps": 4, "examples": 4, "lr": 1e-2},
    }
    recipe = bottega.Recipe.parse(sections)
    whole = folder_of(recipe, tmp_path / "whole")
    asked = iter([False] * 16 + [True] * 100)
    list(bottega.train(recipe, tmp_path / "cut", stop=lambda: next(asked)))
    assert not (tmp_path / "cut" / "adapter").exists()
    list(bottega.resume(tmp_path / "cut"))
    name = "adapter/adapter_model.safetensors"
    assert checksum(whole / name) == checksum(tmp_path / "cut" / name)
    found = bottega.evaluate(whole, against=[], answers=0)
    assert found.base is not None
    assert "preference_accuracy" in {one.metric for one in found.estimates}
    # A third run begins from the second as the second did from the first.
    third = train("third", "sft", model={"base": str(whole), "dtype": "float32"}, adapter={"rank": 3})
    assert written(bottega.load(third, dtype="float32"))
    moved = tmp_path / "moved"
    third.rename(moved)
    assert written(bottega.load(moved, dtype="float32"))


@pytest.mark.parametrize("quantize", ["none", "fp8", pytest.param("nf4", marks=pytest.mark.slow)])
def test_an_adapter_that_is_continued_knows_its_base(quantize: str, train: Train, llama: Path) -> None:
    base = {"base": str(llama), "dtype": "float32", "quantize": quantize}
    sft = train("sft-1", "sft", model=base, adapter={"rank": 4})
    alone = train("alone", "dpo", model={"dtype": "float32"}, adapter={"from": str(sft)})
    both = train("both", "dpo", model={"base": str(sft), "dtype": "float32"}, adapter={"from": str(sft)})
    named = train("named", "dpo", model=base, adapter={"from": str(sft)})
    name = "adapter/adapter_model.safetensors"
    assert checksum(alone / name) == checksum(both / name) == checksum(named / name)
    assert losses(alone)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert not (alone / "base").exists()


def test_two_adapters_of_which_neither_is_meant_are_refused(train: Train) -> None:
    one, other = train("one", "sft", adapter={"rank": 2}), train("two", "sft", adapter={"rank": 2})
    with pytest.raises(ModelError, match=r"leave model\.base out"):
        train("three", "sft", model={"base": str(one)}, adapter={"from": str(other)})
    with pytest.raises(BottegaError, match=r"holds no adapter|either base"):
        train("four", "sft", model={}, adapter={"from": str(one.parent)})


def test_every_weight_may_be_trained_from_an_adapter_too(train: Train) -> None:
    sft = train("sft-1", "sft", adapter={"rank": 2})
    whole = train("whole", "dpo", model={"base": str(sft), "dtype": "float32"})
    assert (whole / "model" / "model.safetensors").exists()
    assert losses(whole)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_the_command_line_generates_with_it(train: Train) -> None:
    sft = train("sft-1", "sft", adapter={"rank": 2})
    dpo = train("dpo-1", "dpo", model={"base": str(sft), "dtype": "float32"}, adapter={"rank": 2})
    done = CliRunner().invoke(app, ["generate", str(dpo), "the cat", "--tokens", "3", "--json"])
    assert done.exit_code == 0, done.output
