"""Memory that a run needs at least, counted before any weight is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import bottega
from bottega.errors import OutOfMemory
from bottega.models.scorer_setup import add_adapter, load_scorer
from bottega.recipe.schema import Recipe
from bottega.training import memory_estimate
from bottega.training.dataset import build_dataset
from making import tiny_config


def test_quantized_weights_are_counted_by_their_size(recipe: Callable[..., Recipe]) -> None:
    given = recipe(adapter={"rank": 4})
    config = build_dataset(given).config
    whole, small = (
        memory_estimate.memory_parts(
            Recipe.parse(given.document() | {"model": given.document()["model"] | {"quantize": kind}}), config, 2
        )
        for kind in ("none", "nf4")
    )
    linear = memory_estimate.count_weights(given, config).linear
    assert small["weights"] == pytest.approx(whole["weights"] - 2 * linear + 0.516 * linear, rel=0.01)
    assert small["optimiser"] == whole["optimiser"]


def test_a_run_that_cannot_fit_does_not_start(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = recipe(optim={"steps": 1, "examples": 4}, evaluate=None)
    weights = memory_estimate.count_weights(given, build_dataset(given).config).total
    # Each weight has 4 bytes, and two moments of 4 bytes.
    monkeypatch.setattr(memory_estimate, "memory_limit", lambda device: 12 * weights)
    assert list(bottega.train(given, tmp_path / "just"))[-1].type == "finished"
    monkeypatch.setattr(memory_estimate, "memory_limit", lambda device: 12 * weights - 1)
    with pytest.raises(OutOfMemory, match="weights and optimizer alone take"):
        list(bottega.train(given, tmp_path / "over"))
    small = Recipe.parse({**given.document(), "adapter": {"rank": 2}})
    assert list(bottega.train(small, tmp_path / "small"))[-1].type == "finished"


def estimate(config: Any, **sections: Any) -> tuple[Recipe, Any]:
    document = {"model": {"base": "m"}, "data": {"train": "a.jsonl"}, "objective": {"kind": "sft"}}
    return Recipe.parse(document | sections), config


@pytest.mark.parametrize(
    ("kind", "more"),
    [("llama", {"tie_word_embeddings": True}), ("llama", {"tie_word_embeddings": False}), ("gpt2", {}), ("t5", {})],
)
def test_weights_are_counted_without_making_any(kind: str, more: dict[str, Any]) -> None:
    given, config = estimate(tiny_config(kind, **more))
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    total = sum(weight.numel() for weight in auto.from_config(config).parameters())
    found = memory_estimate.count_weights(given, config)
    assert (found.total, found.trained) == (total, total)


def test_an_adapter_trains_what_it_adds(llama: Path) -> None:
    given, config = estimate(tiny_config("llama"), adapter={"rank": 3})
    scorer = load_scorer(str(llama), "float32", "cpu")
    assert given.adapter is not None
    add_adapter(scorer, given.adapter, new=[], reference=False)
    trained = sum(weight.numel() for weight in scorer.model.parameters() if weight.requires_grad)
    assert memory_estimate.count_weights(given, config).trained == trained


def test_bytes_of_each_part() -> None:
    config = tiny_config("llama")
    total = memory_estimate.count_weights(*estimate(config)).total
    full = memory_estimate.memory_parts(*estimate(config, objective={"kind": "dpo"}), 2)
    assert full == {
        "weights": 2 * total, "reference": 2 * total, "gradients": 2 * total, "optimiser": 10 * total, "adapter": 0,
    }  # fmt: skip
    assert memory_estimate.memory_parts(*estimate(config), 4)["optimiser"] == 8 * total
    muon = memory_estimate.memory_parts(*estimate(config, optim={"optimizer": "muon"}), 4)
    assert muon["optimiser"] == 4 * total
    lora = estimate(config, objective={"kind": "dpo"}, adapter={"rank": 3})
    trained = memory_estimate.count_weights(*lora).trained
    assert memory_estimate.memory_parts(*lora, 2) == {
        "weights": 2 * total, "reference": 0, "gradients": 4 * trained, "optimiser": 12 * trained,
        "adapter": 2 * trained,
    }  # fmt: skip


def test_a_micro_batch_fills_a_part_of_what_is_left() -> None:
    given, config = estimate(tiny_config("llama"))
    few, many = memory_estimate.MIN_MICRO_BATCH, memory_estimate.MAX_MICRO_BATCH
    assert memory_estimate.micro_batch_tokens(given, config, 2, "cpu") == few
    needed = sum(memory_estimate.memory_parts(given, config, 2).values())
    token = memory_estimate.ACTIVATION_BYTES * 2 * 32
    for tokens, expected in ((0, few), (3.5 * few, 3 * few), (1e9, many)):
        most = round(needed + tokens * token / memory_estimate.ACTIVATION_FRACTION)
        assert memory_estimate.micro_batch_tokens(given, config, 2, "cuda", most) == expected


@pytest.mark.parametrize(
    ("sections", "what", "fix"),
    [
        ({}, "weights and optimizer alone take", "train an adapter (adapter.rank=16), or take a smaller model"),
        ({"adapter": {"rank": 2}}, "weights alone take", "keep the base in 4 bits (model.quantize=nf4), or "),
        ({"adapter": {"rank": 2}, "model": {"base": "m", "quantize": "nf4"}}, "weights alone take", "take a smaller"),
    ],
)
def test_what_would_help_a_run_that_cannot_fit(
    sections: dict[str, Any], what: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_estimate, "memory_limit", lambda device: 10)
    with pytest.raises(OutOfMemory, match=what) as caught:
        memory_estimate.check_fits(*estimate(tiny_config("llama"), **sections), 4, "cpu")
    assert (caught.value.fix or "").startswith(fix)


def test_the_memory_of_this_machine_is_known() -> None:
    assert 1 << 28 < memory_estimate.memory_limit() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
