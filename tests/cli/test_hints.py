"""Options and commands that other tools have, or that are misspelt: each is told what to write here instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bottega.cli.commands import app
from bottega.cli.flag_aliases import OPTION_KEYS, RECIPE_KEYS, SWITCH_OVERRIDES
from bottega.cli.hf_flags import Flags
from bottega.cli.hints import ELSEWHERE, key_of

KEY, HERE, BARE = "a key of the recipe: bottega ", "here it is ", "it stands without a flag: bottega "


def told(line: str) -> str:
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
        ("train r.yaml --packing", "leave it away: rows are always packed, without attending to each other"),
        ("train r.yaml --deepspeed z.json", "leave it away: a run has one process"),
        ("train r.yaml --output_dir out", f"{HERE}--out"),
        ("train r.yaml --resume_from_checkpoint out", f"{HERE}--resume"),
        ("train --config r.yaml", f"{BARE}train RECIPE"),
        ("audit rows.jsonl --model_name_or_path m", f"{HERE}--model"),
        ("audit --dataset rows.jsonl", f"{BARE}audit DATA …"),
        ("generate -m model once", f"{BARE}generate MODEL"),
        ("generate model --max_new_tokens 9", f"{HERE}--tokens"),
        ("evaluate run --num_fewshot 5", f"{HERE}--shots"),
        ("tokenizer fit", "what there is: bottega tokenizer -h"),
        ("tokenizer run", "what there is: bottega tokenizer -h"),
        ("tokenizer dpo", "what there is: bottega tokenizer -h"),
        ("plan --device", "how it is called: bottega plan -h"),
        ("generate m --json=1", "how it is called: bottega generate -h"),
        ("tokenizer train --vocab", "how it is called: bottega tokenizer train -h"),
        ("train r.yaml --max_samples 9", f"{KEY}train RECIPE 'data.train={{path: FILE, split: \"train[:100]\"}}'"),
        ("audit r.jsonl --max-samples 9", 'data.train={path: FILE, split: "train[:100]"} in a recipe, which may be'),
        ("audit r.jsonl --max_length 9", "data.max_length in a recipe, which may be audited instead of rows, says it"),
        ("init sft --learning_rate 5", "optim.lr in the recipe that it writes says it"),
        ("finetune --model m --max_samples 9", f"{HERE}--train-split"),
        ("generate m --num_samples 3", f"{HERE}--number"),
        ("runs --jsn", "did you mean --json?"),
        ("finetune --model m --data a --foo 3", "what is taken here: bottega finetune -h; keys of a recipe may follow"),
        ("sft --model m", "here it is: bottega finetune"),
        ("dpo", "write a recipe for it, and run that: bottega init dpo"),
        ("recipe.yaml", "bottega train recipe.yaml"),
        ("evalute run", "did you mean bottega evaluate?"),
        ("tokenizer trian x", "did you mean bottega tokenizer train?"),
        ("plan", "how it is called: bottega plan -h"),
        ("train --foo --json", "what is taken here: bottega train -h"),
    ],
)
def test_what_to_write_instead(line: str, fix: str) -> None:
    assert fix in told(line)


@pytest.mark.parametrize(
    "line",
    ["evaluate x --batch-size 3", "evaluate x --learning_rate 5", "evaluate x --beta 1", "audit x --seed 3",
     "audit x --lr 5", "generate x --template t", "tokenizer train x --max_samples 9"],
)  # fmt: skip
def test_no_key_is_named_that_would_not_do_what_was_asked(line: str) -> None:
    assert told(line) == f"what is taken here: bottega {line.partition(' x ')[0]} -h"


@pytest.mark.parametrize("word", ["it's", 'a "word"', "plain", "evaluat's"])
def test_a_command_that_does_not_exist_is_named_as_it_was_written(word: str) -> None:
    done = CliRunner().invoke(app, [word])
    assert (done.exit_code, done.stderr.splitlines()[0]) == (2, f"error: bottega: no such command: {word}")


def test_every_option_of_finetune_has_a_key_and_every_key_is_one() -> None:
    without = {"output_path", "logging_steps", "log_level", "trust_remote_code", "per_device_eval_batch_size"}
    assert set(Flags.model_fields) - without <= set(OPTION_KEYS)
    keys = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text()
    for name in (*RECIPE_KEYS, *SWITCH_OVERRIDES, *OPTION_KEYS):
        section, _, key = key_of(name).partition("=")[0].partition(".")
        assert f"## `{section}" in keys or f"`{section}`" in keys, name
        assert not key or f"`{key}`" in keys, name
    assert not set(ELSEWHERE) & set(Flags.model_fields) - set(OPTION_KEYS) - without


def test_an_option_of_evaluate_is_checked_by_its_own_limits() -> None:
    done = CliRunner().invoke(app, ["evaluate", "run", "--rows", "0"])
    assert done.exit_code == 2
    assert (
        done.stderr
        == "error: --rows: 0 is out of range: it must be at least 1\n  → write a number that is at least 1\n"
    )
