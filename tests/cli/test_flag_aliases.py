"""Flags of other tools become options of `bottega finetune`, keys of a recipe, or a reason why not."""

from __future__ import annotations

import pytest

from bottega.cli.flag_aliases import (
    ALIASES,
    CANONICAL_NAMES,
    IGNORED_FLAGS,
    RECIPE_KEYS,
    REFUSED_FLAGS,
    SWITCH_OVERRIDES,
    translate_arguments,
)
from bottega.cli.hf_flags import Flags
from bottega.errors import RecipeError

SWITCHES = {"--dry-run", "--json"}


def translated(line: str) -> tuple[list[str], list[str]]:
    """(the translated arguments, the notes)."""
    notes: list[str] = []
    return translate_arguments(line.split(), SWITCHES, notes.append), notes


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("", []),
        ("-m smol -d rows.jsonl", ["--model-name-or-path", "smol", "--data-files", "rows.jsonl"]),
        ("--base_model=smol", ["--model-name-or-path=smol"]),
        ("--max-steps -1", ["--max-steps", "-1"]),
        ("--dry-run data.max_length=9", ["--dry-run", "data.max_length=9"]),
        ("--weight_decay 0.1 -m smol", ["--model-name-or-path", "smol", "optim.weight_decay=0.1"]),
        ("--weight-decay=0.1", ["optim.weight_decay=0.1"]),
        ("--bf16 --fp16 no", ["model.dtype=bfloat16"]),
        ("--load_in_4bit=True", ["model.quantize=nf4"]),
        ("--load_in_4bit off", []),
        ("--lora_target_modules q_proj v_proj --dry-run", ["--dry-run", "adapter.targets=[q_proj, v_proj]"]),
        ("--target_modules all-linear", ["adapter.targets=all-linear"]),
        ("--lora_target q_proj,v_proj", ["adapter.targets=[q_proj, v_proj]"]),
        ("--unknown 3", ["--unknown", "3"]),
        ("--lr 1 -- --bf16", ["--learning-rate", "1", "--bf16"]),
    ],
)
def test_a_command_line_is_translated(line: str, arguments: list[str]) -> None:
    assert translated(line) == (arguments, [])


def test_overrides_of_flags_follow_those_that_are_written_out() -> None:
    assert translated("--weight_decay 0.1 optim.lr=1 --bf16")[0] == [
        "optim.lr=1", "optim.weight_decay=0.1", "model.dtype=bfloat16",
    ]  # fmt: skip


def test_an_ignored_flag_is_dropped_with_its_value_and_noted() -> None:
    arguments, notes = translated("--eval_strategy steps --packing --save-strategy=epoch -m smol")
    assert arguments == ["--model-name-or-path", "smol"]
    assert [note.partition(" ")[0] for note in notes] == ["--eval-strategy", "--packing", "--save-strategy"]
    assert notes[1] == f"--packing has no effect: {IGNORED_FLAGS['packing']}"


@pytest.mark.parametrize(
    ("line", "where", "what"),
    [
        ("--push_to_hub", "--push-to-hub", "nothing is uploaded"),
        ("--bf16=perhaps", "--bf16", "'perhaps' is neither true nor false"),
        ("--weight_decay", "--weight-decay", "a value is missing"),
        ("--weight_decay --dry-run", "--weight-decay", "a value is missing"),
        ("--optim sgd", "--optim", "'sgd' is not supported"),
        ("--optim adamax", "--optim", "'adamax' is not supported"),
        ("--lr_scheduler polynomial", "--lr-scheduler-type", "'polynomial' is not supported"),
    ],
)
def test_a_flag_that_is_refused_is_named(line: str, where: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        translated(line)
    assert (caught.value.where, caught.value.what) == (where, what)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("flag", "value", "override"),
    [
        ("optim", "paged_adamw_8bit", "optim.optimizer=adamw_8bit"),
        ("optim", "paged_adamw_32bit", "optim.optimizer=adamw"),
        ("optimizer", "muon", "optim.optimizer=muon"),
        ("lr_scheduler_type", "constant_with_warmup", "optim.schedule=constant"),
        ("lr_schedule", "warmup_stable_decay", "optim.schedule=wsd"),
        ("lr_scheduler", "linear", "optim.schedule=linear"),
    ],
)
def test_values_are_translated_too(flag: str, value: str, override: str) -> None:
    assert translated(f"--{flag} {value}")[0] == [override]


def test_every_name_has_one_meaning() -> None:
    assert set(ALIASES) <= set(Flags.model_fields)
    assert len(CANONICAL_NAMES) == sum(map(len, ALIASES.values()))
    tables = [
        {**CANONICAL_NAMES, **dict.fromkeys(ALIASES)},
        RECIPE_KEYS,
        SWITCH_OVERRIDES,
        IGNORED_FLAGS,
        REFUSED_FLAGS,
    ]
    names = [name for table in tables for name in table]
    assert len(names) == len(set(names))
    assert not any("-" in name for name in names), "flags are looked up with underscores"
