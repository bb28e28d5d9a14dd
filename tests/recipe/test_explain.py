"""What is wrong with a recipe is said in plain words, with the key and a fix."""

from __future__ import annotations

from typing import Any

import pytest

from bottega.errors import RecipeError
from bottega.recipe.schema import Recipe

# Words that are not ours.
PYDANTIC = ("Input should", "valid string", "unable to parse", "should match", "Field required", "Extra inputs", "['")


def explained(key: str, value: Any) -> RecipeError:
    """The error of a recipe in which a key has this value."""
    document: dict[Any, Any] = {"model": {"base": "m"}, "data": {"train": "a.jsonl"}, "objective": {"kind": "sft"}}
    *sections, last = key.split(".")
    at = document
    for section in sections:
        at = at.setdefault(section, {})
    at[int(last) if last.isdecimal() else last] = value
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(document, where="recipe.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("key", "value", "what", "fix"),
    [
        ("name", "a" * 101, "cannot name a folder", "change name; every key, explained: bottega init sft"),
        ("name", "../x", "name: '../x' cannot name a folder", "change name; every key, explained: bottega init sft"),
        ("seed", "seven", "seed: expected a whole number, not 'seven'", "write a whole number"),
        ("seed", None, "seed: expected a whole number, not empty", "write a whole number"),
        ("optim.lr", "fast", "optim.lr: expected a number, not 'fast'", "write a number"),
        ("optim.lr", 0, "optim.lr: 0 is out of range: it must be more than 0", "write a number that is more than 0"),
        ("optim.steps", 1.5, "optim.steps: expected a whole number, not 1.5", "write a whole number"),
        ("optim.betas", 0.9, "optim.betas: expected a list, not 0.9", "write a list"),
        ("optim.betas", [0.9], "optim.betas: a value is missing", "write them all"),
        ("optim.betas", [0.9, 2], "optim.betas.1: 2 is out of range: it must be less than 1", "less than 1"),
        ("optim.checkpointing", "perhaps", "expected true or false, not 'perhaps'", "write true or false"),
        ("optim", None, "optim: this section is empty", "write optim: {epochs: 3}, or leave the section out"),
        ("model", None, "model: this section is empty", "write model: {base: FOLDER}"),
        ("model", "llama", "model: expected a section (key: value), not 'llama'", "write model: {base: FOLDER}"),
        ("adapter", "lora", "adapter: expected a section (key: value), not 'lora'", "write adapter: {rank: 16}"),
        ("adapter.targets", 5, "adapter.targets: expected a text or a list, not 5", "write a text or a list"),
        ("adapter.targets", [1], "adapter.targets.0: expected a text, not 1", "write a text"),
        ("devices.device", "gpu", "devices.device: 'gpu' is not one of its values", "one of: auto, cpu, cuda"),
        ("data.mapping", {"text": 5}, "data.mapping.text: expected a text, not 5", "write a text"),
        ("data.train", {"split": "train"}, "the key data.train.path is missing", "write path: … beside split"),
        (
            "objective",
            {"kind": "grpo", "rewards": [{"kind": "length", "most": 9}]},
            "the key objective.rewards.0.free is missing",
            "write free: … beside kind, most",
        ),
        ("objective", {"kind": "custom"}, "objective: custom needs file", "bottega init"),
        ("optim.learning_rate", 1, "unknown key optim.learning_rate", "it is called lr here"),
        ("optim.5", 1, "unknown key optim.5", "known: betas, "),
        ("5", 1, "unknown key 5", "known: adapter, data, "),
        ("optim.warmup", 1, "optim.warmup: 1 could mean one update or the whole run", "change optim.warmup"),
    ],
)
def test_a_wrong_value_is_explained_in_plain_words(key: str, value: Any, what: str, fix: str) -> None:
    error = explained(key, value)
    assert error.what.startswith(what) or what in error.what
    assert fix in (error.fix or "")
    assert error.where == "recipe.yaml"
    assert not any(word in str(error) for word in PYDANTIC)


def test_only_ten_values_are_listed() -> None:
    assert str(explained("data.format", "zzz")).count(",") == 9


@pytest.mark.parametrize(
    ("key", "value", "what", "fix"),
    [
        ("optim.num_train_epoch", 3, "unknown key optim.num_train_epoch", "did you mean epochs?"),
        ("adapter", {"r": 8}, "unknown key adapter.r", "it is called rank here"),
        ("adapter", {"kind": "lora", "rnk": 8}, "unknown key adapter.rnk", "did you mean rank?"),
        ("objective.masked_loss", True, "unknown key objective.masked_loss", "known: "),
        (
            "objective",
            {"kind": "grpo", "rewards": {"kind": "length", "free": 1, "mots": 2}},
            "unknown key objective.rewards.mots",
            "did you mean most?",
        ),
        ("data.train", [{"path": "a.jsonl", "wieght": 2}], "unknown key data.train.0.wieght", "did you mean weight?"),
    ],
)
def test_an_unknown_key_is_corrected_within_its_section(key: str, value: Any, what: str, fix: str) -> None:
    error = explained(key, value)
    assert error.what == what
    assert fix in (error.fix or "")


def test_an_unknown_key_comes_before_the_key_it_leaves_missing() -> None:
    with pytest.raises(RecipeError, match=r"unknown key model\.bsae"):
        Recipe.parse({"model": {"bsae": "m"}, "data": {"train": "a.jsonl"}, "objective": {"kind": "sft"}})
    with pytest.raises(RecipeError, match="the key objective is missing") as caught:
        Recipe.parse({"model": {"base": "m"}, "data": {"train": "a.jsonl"}})
    assert caught.value.fix == "add it: objective: {kind: sft}"
