"""The flags people know from other tools, as a recipe: `bottega finetune`.

They say less than a recipe does, and some say nothing here: rows are packed by tokens, so how many of them stand in a
batch is no question. What a flag does not come to is told, never passed over.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bottega.errors import RecipeError
from bottega.recipe.files import apply_overrides, resolve_paths

FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""Names of file formats where others expect a dataset's name; the files themselves tell what they are."""


class Flags(BaseModel):
    """What `bottega finetune` takes; dashes or underscores."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_name_or_path: str = Field(description="Hub id, folder, or finished run to start from.")
    data_name: str | None = Field(None, description="Dataset: hub id or folder; json, csv … with --data-files.")
    data_files: str | None = Field(None, description="Files of rows, parted by commas.")
    text_template: str | None = Field(None, description="Builds each text from its fields: 'Q: {question}'.")
    method: Literal["lora", "qlora", "full"] = Field("lora", description="What is trained.")
    train_split: str = Field("train", description="Rows to train on, for example train[:400].")
    eval_split: str | None = Field(None, description="Rows to validate on; 0.1 holds out a tenth of the others.")
    max_steps: int = Field(-1, description="Updates; goes before the epochs.")
    num_train_epochs: float = Field(3.0, gt=0, description="Passes over the rows.")
    per_device_train_batch_size: int = Field(8, ge=1, description="Times the accumulation: examples an update.")
    per_device_eval_batch_size: int | None = Field(None, ge=1, description="Says nothing here: rows are packed.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Times the batch size: examples an update.")
    learning_rate: float | None = Field(None, gt=0, description="Peak; default: by method.")
    lora_r: int = Field(16, ge=1, description="Rank of LoRA.")
    lora_alpha: float = Field(32, gt=0, description="LoRA's update is scaled by alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before LoRA.")
    logging_steps: int = Field(10, ge=1, description="Updates between lines of the log.")
    eval_steps: int | None = Field(None, ge=1, description="Updates between validations; default: ten in a run.")
    save_steps: int = Field(500, ge=1, description="Updates between checkpoints.")
    gradient_checkpointing: bool = Field(False, description="Less memory, a third more time.")
    report_to: str = Field("none", description="tensorboard, or none.")
    logging_dir: str | None = Field(None, description="Where the TensorBoard files go; default: in the run.")
    output_path: str | None = Field(None, description="The run's folder; default runs/finetune-<n>.")
    log_level: Literal["debug", "info", "warning", "error", "critical", "passive"] = Field(
        "info", description="Below info, only notes or errors are shown."
    )
    trust_remote_code: bool = Field(False, description="Says nothing here: no checkpoint's code is ever run.")
    seed: int = Field(0, description="The same seed trains the same.")

    @model_validator(mode="after")
    def _agrees(self) -> Flags:
        if self.data_name is None and self.data_files is None:
            raise ValueError("no data: give --data-files FILE, or --data-name and the name of a dataset")
        if self.eval_steps is not None and self.eval_split is None:
            raise ValueError("--eval-steps without rows to validate on: add --eval-split, 0.1 for a tenth")
        return self


def recipe_document(flags: Flags) -> dict[str, Any]:
    """The recipe the flags stand for, sparse; a RecipeError for what cannot be had."""
    sources = [{"path": path, "split": flags.train_split} for path in _data_paths(flags)]
    found: dict[str, Any] = {"name": "finetune", "seed": flags.seed, "model": {"base": flags.model_name_or_path}}
    if flags.method == "qlora":
        found["model"]["quantize"] = "nf4"
    if flags.method != "full":
        found["adapter"] = {"rank": flags.lora_r, "alpha": flags.lora_alpha, "dropout": flags.lora_dropout}
    found["data"] = {"train": sources, **_validation(flags)}
    if flags.text_template is not None:
        # A shell passes \n as two characters.
        found["data"]["text_template"] = flags.text_template.replace("\\n", "\n").replace("\\t", "\t")
    found["objective"] = {"kind": "sft"}
    found["optim"] = _optim_section(flags)
    if flags.eval_split is not None:
        found["evaluate"] = {} if flags.eval_steps is None else {"every": flags.eval_steps}
    found["save"] = {"every": flags.save_steps}
    return found | _report_section(flags)


def ignored_flag_notes(flags: Flags) -> list[str]:
    """What was asked for that comes to nothing here, and why."""
    given = {name for name in Flags.model_fields if getattr(flags, name) != Flags.model_fields[name].default}
    idle = {
        "per_device_eval_batch_size": "rows are packed by tokens",
        "trust_remote_code": "code that lies in a checkpoint is never run",
    }
    if flags.max_steps > 0:
        idle["num_train_epochs"] = "--max-steps goes before it"
    if not _report_kinds(flags):
        idle["logging_dir"] = "--report-to tensorboard is not given"
    if flags.method == "full":
        idle |= dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout"), "every weight is trained")
    told = [(name, reason) for name, reason in idle.items() if name in given]
    return [f"--{name.replace('_', '-')} changes nothing: {reason}" for name, reason in told]


def override_document(document: dict[str, Any], changes: Sequence[str], folder: Path) -> dict[str, Any]:
    """The document with `section.key=value` overrides applied and its paths absolute; they win over flags."""
    apply_overrides(document, changes, folder)
    return resolve_paths(document, folder)


def recipe_text(found: dict[str, Any], command: Sequence[str]) -> str:
    """The recipe as a file, with the command it was made from."""
    lines = shlex.join(["bottega", *command]).splitlines()
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(found, sort_keys=False, allow_unicode=True)


def _data_paths(flags: Flags) -> list[str]:
    if flags.data_files is None:
        return [flags.data_name or ""]
    if flags.data_name is not None and flags.data_name not in FILE_FORMATS:
        what = f"with --data-files, {flags.data_name!r} says nothing"
        raise RecipeError(
            what, where="--data-name", fix=f"one of {', '.join(FILE_FORMATS)}, or leave one of the two away"
        )
    return [path.strip() for path in flags.data_files.split(",") if path.strip()]


def _validation(flags: Flags) -> dict[str, Any]:
    """`data.validation`: a fraction, or a slice of the same files."""
    if flags.eval_split is None:
        return {}
    try:
        return {"validation": float(flags.eval_split)}
    except ValueError:
        return {"validation": [{"path": path, "split": flags.eval_split} for path in _data_paths(flags)]}


def _optim_section(flags: Flags) -> dict[str, Any]:
    length = {"steps": flags.max_steps} if flags.max_steps > 0 else {"epochs": flags.num_train_epochs}
    rate = {} if flags.learning_rate is None else {"lr": flags.learning_rate}
    saving = {"checkpointing": True} if flags.gradient_checkpointing else {}
    examples = flags.per_device_train_batch_size * flags.gradient_accumulation_steps
    return {**length, "examples": examples, **rate, **saving}


def _report_kinds(flags: Flags) -> list[str]:
    wanted = [name.strip() for name in flags.report_to.split(",") if name.strip() not in ("", "none")]
    unknown = [name for name in wanted if name not in ("tensorboard", "all")]
    if unknown:
        what = f"{unknown[0]} is no place a run reports to: nothing is sent anywhere"
        raise RecipeError(what, where="--report-to", fix="tensorboard writes files; bottega show RUN needs none")
    return wanted


def _report_section(flags: Flags) -> dict[str, Any]:
    if not _report_kinds(flags):
        return {}
    folder = {} if flags.logging_dir is None else {"folder": flags.logging_dir}
    return {"report": [{"kind": "tensorboard", **folder}]}
