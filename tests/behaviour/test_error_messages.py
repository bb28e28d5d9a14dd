"""What is wrong with a recipe or a command is said in plain words: what, where, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bottega.cli.commands import app
from bottega.errors import RecipeError
from bottega.recipe.schema import Recipe
from bottega.suggestions import join_names, suggest_name
from making import write_jsonl

# Words that are not ours.
PYDANTIC = ("Input should", "valid string", "unable to parse", "should match", "Field required", "Extra inputs", "['")


def told(key: str, value: Any) -> RecipeError:
    """What is said of a recipe in which a key has this value."""
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
        ("adapter.targets", 5, "adapter.targets: expected text or a list, not 5", "write text or a list"),
        ("adapter.targets", [1], "adapter.targets.0: expected text, not 1", "write text"),
        ("devices.device", "gpu", "devices.device: 'gpu' is not one of its values", "one of: auto, cpu, cuda"),
        ("data.mapping", {"text": 5}, "data.mapping.text: expected text, not 5", "write text"),
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
def test_a_wrong_value_is_told_in_plain_words(key: str, value: Any, what: str, fix: str) -> None:
    error = told(key, value)
    assert error.what.startswith(what) or what in error.what
    assert fix in (error.fix or "")
    assert error.where == "recipe.yaml"
    assert not any(word in str(error) for word in PYDANTIC)


def test_lists_are_cut_at_ten() -> None:
    assert join_names([str(n) for n in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 … and 2 more"
    assert suggest_name("x", [f"key{n}" for n in range(10)]).count(",") == 9
    assert str(told("data.format", "zzz")).count(",") == 9


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2, done.output
    return done.stderr


def test_advice_works_when_followed(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows given as a recipe: the command that is named writes one for them, and the next reads it."""
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"the cat {n}", "output": f"sat on {n}"} for n in range(12)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    for command in ("train", "preview"):
        said = call(command, "rows.jsonl")
        assert "these are rows, not a recipe" in said
        assert "bottega init rows.jsonl --model FOLDER --out recipe.yaml" in said
    assert "bottega init ROWS --model FOLDER --out none.yaml" in call("train", "none.yaml")
    written = CliRunner().invoke(app, ["init", "rows.jsonl", "--model", str(llama), "--out", "recipe.yaml"])
    assert written.exit_code == 0, written.output
    assert CliRunner().invoke(app, ["train", "recipe.yaml", "--dry-run"]).exit_code == 0
    steps = ["train", "recipe.yaml", "optim.steps=2", "optim.epochs=null", "--out", "run"]
    assert CliRunner().invoke(app, steps).exit_code == 0


def test_a_file_to_begin_from_that_is_missing_is_called_so(tmp_path: Path) -> None:
    for name in ("none.jsonl", str(tmp_path / "none")):
        assert "no such file" in call("init", name, "--out", str(tmp_path / "r.yaml"))
    assert "did you mean sft?" in call("init", "stf", "--out", str(tmp_path / "r.yaml"))


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (b"model: {base: x\ndata: [", "invalid YAML: line 2, column 5: ", "expected ',' or '}', but got ':'"),
        (b"name: a\nname: b\n", "line 2, column 1: ", "the key name is given twice"),
        (b"name: \xff\xfe", "byte 7: ", "the text is not UTF-8"),
    ],
)
def test_where_a_recipe_is_no_yaml(text: bytes, where: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(text)
    said = call("preview", str(tmp_path / "recipe.yaml"))
    assert f"{where}{what}" in said
    assert "unicode string" not in said
    assert "codec" not in said
