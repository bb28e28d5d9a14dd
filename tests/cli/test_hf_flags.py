"""`bottega finetune`: flags from other tools become a recipe, and the recipe runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bottega.cli.commands import app
from bottega.cli.hf_flags import Flags, ignored_flag_notes, recipe_document
from bottega.errors import RecipeError
from making import write_jsonl

ROWS = [
    {"instruction": f"say {word}", "input": "", "output": word}
    for word in ["red", "blue", "one", "two", "three", "cat", "dog"]
]


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["finetune", *arguments])


def flags(**given: Any) -> Flags:
    return Flags(**{"model_name_or_path": "m", "data_files": "a.jsonl", **given})


def test_a_command_line_of_another_tool_runs_unchanged(llama: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS * 8)
    out = tmp_path / "out"
    done = call(
        *("--method", "lora", "--model_name_or_path", str(llama), "--data_name", "json", "--data_files", str(data)),
        *("--train_split", "train[:40]", "--eval_split", "train[40:45]"),
        *("--text_template", r"### Question: {instruction} \n### Answer: {output}"),
        *("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2", "--max_steps", "6"),
        *("--logging_steps", "2", "--eval_steps", "3", "--save_steps", "4", "--lora_r", "4", "--lora_alpha", "8"),
        *("--gradient_checkpointing", "true", "--trust_remote_code", "--output_path", str(out)),
        "optim.weight_decay=0.01",
    )
    assert done.exit_code == 0, done.output
    resolved = json.loads((out / "resolved.json").read_text())
    assert resolved["optim"]["examples"] == 8
    assert (resolved["optim"]["steps"], resolved["optim"]["checkpointing"]) == (6, True)
    assert resolved["optim"]["weight_decay"] == 0.01
    assert resolved["data"]["text_template"] == "### Question: {instruction} \n### Answer: {output}"
    assert (out / "adapter" / "adapter_model.safetensors").exists()
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    (started,) = [event for event in events if event["type"] == "started"]
    assert (started["examples"], started["validation_examples"]) == (40, 5)
    assert [event["step"] for event in events if event["type"] == "validated"] == [0, 3, 6]
    assert [event["step"] for event in events if event["type"] == "saved"] == [3, 4]
    assert "step      2" in done.stderr
    assert "step      3  loss" not in done.stderr
    assert "code of a checkpoint is never run" in done.stderr
    again = CliRunner().invoke(app, ["train", str(out / "recipe.yaml"), "--out", str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again" / "adapter" / "adapter_model.safetensors").read_bytes() == (
        out / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


def test_flags_accept_dashes_and_a_dry_run_only_prints(llama: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    given = ("--model-name-or-path", str(llama), f"--data-files={data}", "--method", "full", "--dry-run")
    done = call(*given, "--output-path", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    found = yaml.safe_load(done.stdout)
    assert found["data"]["train"] == [{"path": str(data), "split": "train"}]
    assert "adapter" not in found
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "section", "found"),
    [
        ({"max_steps": 7, "num_train_epochs": 2.0}, "optim", {"steps": 7, "examples": 8}),
        ({"num_train_epochs": 2.0}, "optim", {"epochs": 2.0, "examples": 8}),
        ({"learning_rate": 1e-3}, "optim", {"epochs": 3.0, "examples": 8, "lr": 1e-3}),
        ({"method": "full"}, "adapter", None),
        ({"method": "qlora"}, "adapter", {"rank": 16, "alpha": 32, "dropout": 0.0}),
        ({"method": "qlora"}, "model", {"base": "m", "quantize": "nf4"}),
        ({"lora_dropout": 0.1}, "adapter", {"rank": 16, "alpha": 32, "dropout": 0.1}),
        ({"eval_split": "0.1"}, "evaluate", {}),
        ({"report_to": "none"}, "report", None),
        ({"report_to": "tensorboard", "logging_dir": "logs"}, "report", [{"kind": "tensorboard", "folder": "logs"}]),
    ],
)
def test_flags_become_keys(given: dict[str, Any], section: str, found: Any) -> None:
    assert recipe_document(flags(**given)).get(section) == found


def test_data_files_are_split_at_commas_and_a_data_name_alone_is_a_dataset() -> None:
    two = recipe_document(flags(data_files="a.jsonl, b.jsonl", eval_split="train[:2]"))["data"]
    assert [source["path"] for source in two["train"]] == ["a.jsonl", "b.jsonl"]
    assert [source["split"] for source in two["validation"]] == ["train[:2]"] * 2
    assert recipe_document(flags(data_files=None, data_name="some/set"))["data"]["train"][0]["path"] == "some/set"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data_name": "some/set"}, "must be a file format"),
        ({"report_to": "wandb"}, "nothing is uploaded"),
    ],
)
def test_unsupported_values_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe_document(flags(**given))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data_files", "a"), "model-name-or-path"),
        (("--model_name_or_path", "m"), "no data"),
        (("--model_name_or_path", "m", "--data_files", "a", "--eval_steps", "3"), "--eval-split"),
        (("--model_name_or_path", "m", "--data_files", "a", "--lora_r", "0"), "--lora-r"),
        (("--model_name_or_path", "m", "--data_files", "a", "--lora_rang", "8"), "--lora-rang"),
    ],
)
def test_a_wrong_or_missing_flag_is_named(arguments: tuple[str, ...], words: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr


def test_flags_without_effect_are_reported() -> None:
    told = ignored_flag_notes(
        flags(per_device_eval_batch_size=4, max_steps=3, num_train_epochs=5.0, logging_dir="logs")
    )
    assert [line.split()[0] for line in told] == ["--per-device-eval-batch-size", "--num-train-epochs", "--logging-dir"]
    assert ignored_flag_notes(flags()) == []
    assert ignored_flag_notes(flags(method="full", lora_r=8)) == ["--lora-r has no effect: every weight is trained"]


def test_values_are_passed_through_unchanged(llama: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows_of_mine.jsonl", ROWS)
    template = "--- {instruction}\nanswer_here={output}"
    given = ("--model_name_or_path", str(llama), "--data_files", str(data), "--max_steps", "-1", "--dry_run", "yes")
    done = call(*given, "--text_template", template, "--gradient_checkpointing=no", "optim.update_tokens=64")
    assert done.exit_code == 0, done.output
    found = yaml.safe_load(done.stdout)
    assert found["data"]["text_template"] == template
    assert found["data"]["train"][0]["path"] == str(data)
    assert found["optim"] == {"epochs": 3.0, "update_tokens": 64}
    printed = json.loads(call(*given, "--text_template", template, "--json", "optim.steps=5").stdout)
    assert printed["optim"] == {"steps": 5, "examples": 8}
    odd = call(*given, "--gradient_checkpointing=perhaps")
    assert odd.exit_code == 2
    assert "neither true nor false" in odd.stderr


def test_above_log_level_info_only_notes_or_errors_are_shown(llama: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    given = ("--model_name_or_path", str(llama), "--data_files", str(data), "--max_steps", "2")
    warned = call(*given, "--log_level", "warning", "--output_path", str(tmp_path / "one"))
    silent = call(*given, "--log_level", "error", "--output_path", str(tmp_path / "two"))
    assert warned.exit_code == silent.exit_code == 0
    assert "note" in warned.stderr
    assert "step" not in warned.stderr
    assert silent.stderr == ""


@pytest.mark.parametrize(
    ("given", "key", "found"),
    [
        ("--weight_decay 0.1", "optim.weight_decay", 0.1),
        ("--weight-decay=0.1", "optim.weight_decay", 0.1),
        ("--early_stopping_patience 3 --eval_split 0.1", "evaluate.stop_after", 3),
        ("--optim adamw_torch", "optim.optimizer", "adamw"),
        ("--optim=paged_adamw_8bit", "optim.optimizer", "adamw_8bit"),
        ("--optim=adamw_torch_fused", "optim.optimizer", "adamw"),
        ("--optim=adafactor", "optim.optimizer", "adafactor"),
        ("--lr_scheduler_type constant_with_warmup", "optim.schedule", "constant"),
        ("--warmup_ratio 0.1", "optim.warmup", 0.1),
        ("--warmup-steps 20", "optim.warmup", 20),
        ("--bf16", "model.dtype", "bfloat16"),
        ("--bf16 true", "model.dtype", "bfloat16"),
        ("--fp16=True", "model.dtype", "float16"),
        ("--load_in_4bit", "model.quantize", "nf4"),
        ("--max_seq_length 128", "data.max_length", 128),
        ("--cutoff_len 128", "data.max_length", 128),
        ("--lora_target_modules q_proj v_proj", "adapter.targets", ["q_proj", "v_proj"]),
        ("--lora_target_modules q_proj,v_proj", "adapter.targets", ["q_proj", "v_proj"]),
        ("--lora_target all", "adapter.targets", "all-linear"),
        ("--lora_rank 4", "adapter.rank", 4),
        ("--neftune_noise_alpha 5", "optim.neftune", 5),
        ("--max_grad_norm 0.5", "optim.clip", 0.5),
        ("--epochs 2", "optim.epochs", 2.0),
        ("--lr 1e-3", "optim.lr", 1e-3),
        ("--save_total_limit 1", "save.keep", 1),
    ],
)
def test_flags_of_other_tools_become_keys(given: str, key: str, found: Any) -> None:
    done = call("-m", "some/model", "-d", "rows.jsonl", *given.split(), "--dry_run")
    assert done.exit_code == 0, done.output
    at = yaml.safe_load(done.stdout)
    assert at["model"]["base"] == "some/model"
    for part in key.split("."):
        at = at[part]
    assert at == found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--beta 0.1", "objective.beta"),
        ("--push_to_hub", "nothing is uploaded"),
        ("--deepspeed ds.json", "one process"),
        ("--lr_scheduler_type polynomial", "one of: cosine, linear, constant, wsd"),
        ("--optim sgd", "one of: adamw, adamw_8bit, adafactor, muon"),
        ("--bf16=perhaps", "neither true nor false"),
        ("--weight_decay", "it becomes optim.weight_decay"),
    ],
)
def test_unsupported_flags_are_refused_with_a_reason_and_a_fix(given: str, words: str) -> None:
    done = call("-m", "m", "-d", "rows.jsonl", *given.split(), "--dry_run")
    assert done.exit_code == 2
    assert words in done.stderr


def test_flags_of_other_tools_without_effect_are_reported() -> None:
    idle = ("--packing", "--eval_strategy", "steps", "--use_peft", "true", "--attn_implementation=sdpa")
    done = call("-m", "m", "-d", "rows.jsonl", *idle, "--dry_run")
    assert done.exit_code == 0, done.output
    told = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("note:")]
    assert told == ["--packing", "--eval-strategy", "--use-peft", "--attn-implementation"]
