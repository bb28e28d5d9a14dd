"""The flags of `bottega finetune`, named as in other tools, and the recipe they stand for.

Flags cover less than a recipe does. A flag that has no effect here is reported, never silently ignored.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

import bottega

# Names of file formats that other tools accept as --data-name, beside --data-files. The files' suffixes decide here.
FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")


class Flags(BaseModel):
    """The options of `bottega finetune`, with dashes or underscores."""

    # pydantic reserves the prefix `model_` for itself, which `model_name_or_path` would violate.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_name_or_path: str = Field(description="Hub id, folder or finished run to start from.")
    data_name: str | None = Field(None, description="Dataset: hub id or folder; json, csv … with --data-files.")
    data_files: str | None = Field(None, description="Files of rows, separated by commas.")
    text_template: str | None = Field(None, description="Template that builds a text from fields: 'Q: {question}'.")
    method: Literal["lora", "qlora", "full"] = Field("lora", description="What is trained.")
    train_split: str = Field("train", description="Rows to train on, for example train[:400].")
    eval_split: str | None = Field(None, description="Rows to validate on, or the fraction to hold out: 0.1.")
    max_steps: int = Field(-1, description="Number of updates; overrides the epochs.")
    num_train_epochs: float = Field(3.0, gt=0, description="Passes over the rows.")
    per_device_train_batch_size: int = Field(8, ge=1, description="Times the accumulation: examples per update.")
    per_device_eval_batch_size: int | None = Field(None, ge=1, description="Has no effect: rows are packed.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Times the batch size: examples per update.")
    learning_rate: float | None = Field(None, gt=0, description="Peak learning rate; default: by method.")
    lora_r: int = Field(16, ge=1, description="Rank of LoRA.")
    lora_alpha: float = Field(32, gt=0, description="LoRA's update is scaled by alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before LoRA.")
    logging_steps: int = Field(10, ge=1, description="Updates between lines of the log.")
    eval_steps: int | None = Field(None, ge=1, description="Updates between validations; default: ten per run.")
    save_steps: int = Field(500, ge=1, description="Updates between checkpoints.")
    gradient_checkpointing: bool = Field(False, description="Less memory, a third more time.")
    report_to: str = Field("none", description="tensorboard, or none.")
    logging_dir: str | None = Field(None, description="Folder of the TensorBoard files; default: in the run folder.")
    output_path: str | None = Field(None, description="The run folder; default: runs/finetune-<n>.")
    log_level: Literal["debug", "info", "warning", "error", "critical", "passive"] = Field(
        "info", description="Above info, only notes or errors are shown."
    )
    trust_remote_code: bool = Field(False, description="Has no effect: code of a checkpoint is never run.")
    seed: int = Field(0, description="Seed of every random choice.")

    @model_validator(mode="after")
    def _check_consistency(self) -> Flags:
        if self.data_name is None and self.data_files is None:
            raise ValueError("no data: give --data-files FILE, or --data-name with the name of a dataset")
        if self.eval_steps is not None and self.eval_split is None:
            raise ValueError("--eval-steps needs rows to validate on: add --eval-split, 0.1 for a tenth")
        return self


def recipe_document(flags: Flags) -> dict[str, Any]:
    """The recipe that the flags stand for, without keys at their default; a RecipeError for unsupported values."""
    sources = [{"path": path, "split": flags.train_split} for path in _data_paths(flags)]
    document: dict[str, Any] = {"name": "finetune", "seed": flags.seed, "model": {"base": flags.model_name_or_path}}
    if flags.method == "qlora":
        document["model"]["quantize"] = "nf4"
    if flags.method != "full":
        document["adapter"] = {"rank": flags.lora_r, "alpha": flags.lora_alpha, "dropout": flags.lora_dropout}
    document["data"] = {"train": sources, **_validation_section(flags)}
    if flags.text_template is not None:
        # A shell passes \n as two characters.
        document["data"]["text_template"] = flags.text_template.replace("\\n", "\n").replace("\\t", "\t")
    document["objective"] = {"kind": bottega.DEFAULT_OBJECTIVE}
    document["optim"] = _optim_section(flags)
    if flags.eval_split is not None:
        document["evaluate"] = {} if flags.eval_steps is None else {"every": flags.eval_steps}
    document["save"] = {"every": flags.save_steps}
    return document | _report_section(flags)


def ignored_flag_notes(flags: Flags) -> list[str]:
    """A note on each flag that was given but has no effect, with the reason."""
    # A flag set to its default has no effect either way, and needs no note.
    given = {name for name in Flags.model_fields if getattr(flags, name) != Flags.model_fields[name].default}
    reasons = {
        "per_device_eval_batch_size": "rows are packed by tokens",
        "trust_remote_code": "code of a checkpoint is never run",
    }
    if flags.max_steps > 0:
        reasons["num_train_epochs"] = "--max-steps overrides it"
    if not _report_kinds(flags):
        reasons["logging_dir"] = "--report-to tensorboard is not given"
    if flags.method == "full":
        reasons |= dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout"), "every weight is trained")
    ignored = [(name, reason) for name, reason in reasons.items() if name in given]
    return [f"--{name.replace('_', '-')} has no effect: {reason}" for name, reason in ignored]


def override_document(document: dict[str, Any], changes: Sequence[str], folder: Path) -> dict[str, Any]:
    """The document with `section.key=value` overrides applied, which win over flags, and its paths absolute."""
    bottega.apply_overrides(document, changes, folder)
    return bottega.resolve_paths(document, folder)


def recipe_text(document: dict[str, Any], command: Sequence[str]) -> str:
    """The document as YAML, below a comment with the command it was made by."""
    # An argument may contain line breaks: each line must start with #.
    lines = shlex.join(["bottega", *command]).splitlines()
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _data_paths(flags: Flags) -> list[str]:
    if flags.data_files is None:
        return [flags.data_name or ""]
    if flags.data_name is not None and flags.data_name not in FILE_FORMATS:
        what = f"with --data-files, it must be a file format, not {flags.data_name!r}"
        raise bottega.RecipeError(
            what, where="--data-name", fix=f"one of {', '.join(FILE_FORMATS)}; or leave one of the two out"
        )
    return [path.strip() for path in flags.data_files.split(",") if path.strip()]


def _validation_section(flags: Flags) -> dict[str, Any]:
    """`data.validation`: a fraction, or a slice of the training files."""
    if flags.eval_split is None:
        return {}
    # "0.1" is a fraction; anything else, such as train[400:], a slice.
    try:
        return {"validation": float(flags.eval_split)}
    except ValueError:
        return {"validation": [{"path": path, "split": flags.eval_split} for path in _data_paths(flags)]}


def _optim_section(flags: Flags) -> dict[str, Any]:
    length = {"steps": flags.max_steps} if flags.max_steps > 0 else {"epochs": flags.num_train_epochs}
    rate = {} if flags.learning_rate is None else {"lr": flags.learning_rate}
    memory = {"checkpointing": True} if flags.gradient_checkpointing else {}
    # The micro-batch is set in tokens here; only the product of the two decides what is learned.
    examples = flags.per_device_train_batch_size * flags.gradient_accumulation_steps
    return {**length, "examples": examples, **rate, **memory}


def _report_kinds(flags: Flags) -> list[str]:
    kinds = [name.strip() for name in flags.report_to.split(",") if name.strip() not in ("", "none")]
    unknown = [name for name in kinds if name not in ("tensorboard", "all")]
    if unknown:
        what = f"{unknown[0]} is not supported: nothing is uploaded"
        raise bottega.RecipeError(
            what, where="--report-to", fix="tensorboard writes files; bottega show RUN needs neither"
        )
    return kinds


def _report_section(flags: Flags) -> dict[str, Any]:
    if not _report_kinds(flags):
        return {}
    folder = {} if flags.logging_dir is None else {"folder": flags.logging_dir}
    return {"report": [{"kind": "tensorboard", **folder}]}
