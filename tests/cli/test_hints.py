"""Hints for options and commands of other tools, and for misspelled ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bottega.cli.commands import app
from bottega.cli.flag_aliases import OPTION_KEYS, RECIPE_KEYS, SWITCH_OVERRIDES
from bottega.cli.hf_flags import Flags
from bottega.cli.hints import OPTION_PARAMETERS, recipe_key

KEY, OPTION, ARGUMENT = "set it in the recipe: bottega ", "use ", "give it as an argument: bottega "


def hint(line: str) -> str:
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == "" or json.loads(done.stdout)["fix"]
    assert "Input should" not in done.stderr
    what, fix = done.stderr.strip().split("\n  → ")
    assert what.startswith("error: bottega")
    return fix


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("train r.yaml --weight_decay 0.1", f"{KEY}train RECIPE optim.weight_decay=…"),
        ("train r.yaml --weight-decay=0.1", f"{KEY}train RECIPE optim.weight_decay=…"),
        ("plan r.yaml --bf16", f"{KEY}plan RECIPE model.dtype=bfloat16"),
        ("preview r.yaml --max_seq_length 512", f"{KEY}preview RECIPE data.max_length=…"),
        ("train r.yaml -m model", f"{KEY}train RECIPE model.base=…"),
        ("train r.yaml -d rows.jsonl", f"{KEY}train RECIPE data.train=…"),
        ("train r.yaml --early_stopping_patience 3", f"{KEY}train RECIPE evaluate.stop_after=…"),
        ("train r.yaml --load_in_4bit", f"{KEY}train RECIPE model.quantize=nf4"),
        ("train r.yaml --evaluation_strategy steps", f"{KEY}train RECIPE evaluate.every=…"),
        ("train r.yaml --packing", "leave it out: rows are always packed, without attending to each other"),
        ("train r.yaml --deepspeed z.json", "leave it out: a run has one process"),
        ("train r.yaml --output_dir out", f"{OPTION}--out"),
        ("train r.yaml --resume_from_checkpoint out", f"{OPTION}--resume"),
        ("train --config r.yaml", f"{ARGUMENT}train RECIPE"),
        ("audit rows.jsonl --model_name_or_path m", f"{OPTION}--model"),
        ("audit --dataset rows.jsonl", f"{ARGUMENT}audit DATA …"),
        ("generate -m model once", f"{ARGUMENT}generate MODEL"),
        ("generate model --max_new_tokens 9", f"{OPTION}--tokens"),
        ("evaluate run --num_fewshot 5", f"{OPTION}--shots"),
        ("tokenizer fit", "for its commands: bottega tokenizer -h"),
        ("tokenizer run", "for its commands: bottega tokenizer -h"),
        ("tokenizer dpo", "for its commands: bottega tokenizer -h"),
        ("plan --device", "see bottega plan -h"),
        ("generate m --json=1", "see bottega generate -h"),
        ("tokenizer train --vocab", "see bottega tokenizer train -h"),
        ("train r.yaml --max_samples 9", f"{KEY}train RECIPE 'data.train={{path: FILE, split: \"train[:100]\"}}'"),
        ("audit r.jsonl --max-samples 9", 'data.train={path: FILE, split: "train[:100]"} in a recipe, which may be'),
        ("audit r.jsonl --max_length 9", "set data.max_length in a recipe, which may be audited instead of rows; for"),
        ("init sft --learning_rate 5", "set optim.lr in the recipe that it writes; for"),
        ("finetune --model m --max_samples 9", f"{OPTION}--train-split"),
        ("generate m --num_samples 3", f"{OPTION}--number"),
        ("runs --jsn", "did you mean --json?"),
        ("finetune --model m --data a --foo 3", "for its options: bottega finetune -h; recipe keys may follow"),
        ("sft --model m", "use bottega finetune"),
        ("dpo", "write a recipe for it, and train with that: bottega init dpo"),
        ("recipe.yaml", "bottega train recipe.yaml"),
        ("evalute run", "did you mean bottega evaluate?"),
        ("tokenizer trian x", "did you mean bottega tokenizer train?"),
        ("plan", "see bottega plan -h"),
        ("train --foo --json", "for its options: bottega train -h"),
    ],
)
def test_a_wrong_option_or_command_is_answered_with_the_right_one(line: str, fix: str) -> None:
    assert fix in hint(line)


@pytest.mark.parametrize(
    "line",
    ["evaluate x --batch-size 3", "evaluate x --learning_rate 5", "evaluate x --beta 1", "audit x --seed 3",
     "audit x --lr 5", "generate x --template t", "tokenizer train x --max_samples 9"],
)  # fmt: skip
def test_no_key_is_suggested_that_the_command_does_not_use(line: str) -> None:
    assert hint(line) == f"for its options: bottega {line.partition(' x ')[0]} -h"


@pytest.mark.parametrize("word", ["it's", 'a "word"', "plain", "evaluat's"])
def test_an_unknown_command_is_quoted_as_it_was_written(word: str) -> None:
    done = CliRunner().invoke(app, [word])
    assert (done.exit_code, done.stderr.splitlines()[0]) == (2, f"error: bottega: no such command: {word}")


def test_every_option_of_finetune_has_a_key_and_every_key_is_one() -> None:
    without = {"output_path", "logging_steps", "log_level", "trust_remote_code", "per_device_eval_batch_size"}
    assert set(Flags.model_fields) - without <= set(OPTION_KEYS)
    keys = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text()
    for name in (*RECIPE_KEYS, *SWITCH_OVERRIDES, *OPTION_KEYS):
        section, _, key = recipe_key(name).partition("=")[0].partition(".")
        assert f"## `{section}" in keys or f"`{section}`" in keys, name
        assert not key or f"`{key}`" in keys, name
    assert not set(OPTION_PARAMETERS) & set(Flags.model_fields) - set(OPTION_KEYS) - without
