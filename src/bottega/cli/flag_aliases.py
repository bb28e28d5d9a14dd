"""Flags of other tools, translated into options of `bottega finetune` or keys of a recipe.

Names as TRL, transformers, LLaMA-Factory, Axolotl, Unsloth, AutoTrain, mlx-lm and litgpt spell them; dashes and
underscores are interchangeable. Flags without a counterpart are refused, or reported as having no effect, each with the
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import bottega

# Words that other tools accept after a switch.
BOOLEANS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)

# Options of `bottega finetune` → other names for them.
ALIASES = {
    "model_name_or_path": ("m", "model", "model_name", "base_model", "model_id", "model_path", "checkpoint_dir"),
    "data_files": ("d", "data", "train_file", "data_path", "train_data", "train_files", "dataset_path"),
    "data_name": ("dataset", "dataset_name", "datasets"),
    "train_split": ("dataset_train_split",),
    "eval_split": ("dataset_test_split", "val_size", "val_set_size", "valid_split", "validation_split"),
    "max_steps": ("iters", "steps"),
    "num_train_epochs": ("epochs", "num_epochs"),
    "per_device_train_batch_size": ("batch_size", "micro_batch_size", "train_batch_size"),
    "per_device_eval_batch_size": ("eval_batch_size", "val_batches"),
    "gradient_accumulation_steps": ("gradient_accumulation", "grad_accumulation_steps"),
    "learning_rate": ("lr",),
    "lora_r": ("r", "rank", "lora_rank"),
    "logging_steps": ("steps_per_report", "log_interval"),
    "eval_steps": ("steps_per_eval",),
    "save_steps": ("save_every", "save_interval"),
    "gradient_checkpointing": ("grad_checkpoint", "use_gradient_checkpointing"),
    "report_to": ("log_with",),
    "output_path": ("o", "output_dir", "out_dir", "adapter_path", "project_name", "output"),
}

CANONICAL_NAMES = {alias: name for name, aliases in ALIASES.items() for alias in aliases}


# Values, from a flag's spelling to a recipe's


def _unchanged(value: str) -> str:
    return value


def _parse_schedule(value: str) -> str:
    names = {"constant_with_warmup": "constant", "cosine_with_min_lr": "cosine", "warmup_stable_decay": "wsd"}
    return _check_choice(names.get(value, value), ("cosine", "linear", "constant", "wsd"), "lr-scheduler-type")


def _parse_optimizer(value: str) -> str:
    # adamw_torch, paged_adamw_32bit … differ in implementation only. Adamax is another algorithm.
    name = value.lower()
    if name.startswith(("adamw", "paged_adamw", "adam")) and name != "adamax":
        name = "adamw_8bit" if "8bit" in name.replace("8-bit", "8bit") else "adamw"
    return _check_choice(name, ("adamw", "adamw_8bit", "adafactor", "muon"), "optim")


def _parse_targets(value: str) -> str:
    names = value.strip("[]").replace(",", " ").split()
    return "all-linear" if names in (["all"], ["all-linear"]) else f"[{', '.join(names)}]"


def _check_choice(value: str, known: Sequence[str], flag: str) -> str:
    if value not in known:
        raise bottega.RecipeError(f"{value!r} is not supported", where=f"--{flag}", fix=f"one of: {', '.join(known)}")
    return value


# Flags that set one key of a recipe: (key, function that translates the value).
RECIPE_KEYS: dict[str, tuple[str, Callable[[str], str]]] = {
    "weight_decay": ("optim.weight_decay", _unchanged),
    "optim": ("optim.optimizer", _parse_optimizer),
    "optimizer": ("optim.optimizer", _parse_optimizer),
    "lr_scheduler_type": ("optim.schedule", _parse_schedule),
    "lr_scheduler": ("optim.schedule", _parse_schedule),
    "lr_schedule": ("optim.schedule", _parse_schedule),
    "warmup_ratio": ("optim.warmup", _unchanged),
    "warmup_steps": ("optim.warmup", _unchanged),
    "max_grad_norm": ("optim.clip", _unchanged),
    "neftune_noise_alpha": ("optim.neftune", _unchanged),
    "early_stopping_patience": ("evaluate.stop_after", _unchanged),
    "save_total_limit": ("save.keep", _unchanged),
    "run_name": ("name", _unchanged),
    "torch_dtype": ("model.dtype", _unchanged),
    "dtype": ("model.dtype", _unchanged),
    "tokenizer_name": ("model.tokenizer", _unchanged),
    "lora_target_modules": ("adapter.targets", _parse_targets),
    "lora_target": ("adapter.targets", _parse_targets),
    "target_modules": ("adapter.targets", _parse_targets),
    **dict.fromkeys(
        ("max_seq_length", "max_length", "cutoff_len", "sequence_len", "model_max_length", "block_size", "max_seq_len"),
        ("data.max_length", _unchanged),
    ),
}

# The key to name when one of these flags is given to a command that takes a recipe. Options of `bottega finetune`, and
# others it does not have.
OPTION_KEYS = {
    "model_name_or_path": "model.base",
    "data_files": "data.train",
    "data_name": "data.train",
    "train_split": "data.train",
    "text_template": "data.text_template",
    "eval_split": "data.validation",
    "eval_file": "data.validation",
    "validation_file": "data.validation",
    "do_eval": "data.validation",
    "method": "adapter.rank",
    "use_peft": "adapter.rank",
    "lora_r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "max_steps": "optim.steps",
    "num_train_epochs": "optim.epochs",
    "per_device_train_batch_size": "optim.examples",
    "gradient_accumulation_steps": "optim.examples",
    "learning_rate": "optim.lr",
    "gradient_checkpointing": "optim.checkpointing=true",
    "eval_steps": "evaluate.every",
    "eval_strategy": "evaluate.every",
    "evaluation_strategy": "evaluate.every",
    "load_best_model_at_end": "evaluate.stop_after",
    "save_steps": "save.every",
    "save_strategy": "save.every",
    "report_to": "report",
    "logging_dir": "report",
    "seed": "seed",
    "beta": "objective.beta",
    "stage": "objective.kind",
    "template": "data.template",
}

# Switches, and the override they stand for when on.
SWITCH_OVERRIDES = {
    "bf16": "model.dtype=bfloat16",
    "fp16": "model.dtype=float16",
    "load_in_4bit": "model.quantize=nf4",
    "load_in_8bit": "model.quantize=fp8",
}

# Flags without effect, and why.
IGNORED_FLAGS = {
    "packing": "rows are always packed, without attending to each other",
    "sample_packing": "rows are always packed, without attending to each other",
    "group_by_length": "rows are packed, so nothing is lost on padding",
    "use_peft": "--method lora is the default; --method full trains every weight",
    "do_train": "bottega finetune always trains",
    "do_eval": "--eval-split turns validation on",
    "eval_strategy": "--eval-steps sets how often; by default ten times per run",
    "evaluation_strategy": "--eval-steps sets how often; by default ten times per run",
    "save_strategy": "--save-steps sets how often",
    "logging_strategy": "--logging-steps sets how often",
    "load_best_model_at_end": "the result has the weights of the best validation",
    "overwrite_output_dir": "a run is never overwritten",
    "remove_unused_columns": "unused fields are ignored",
    "dataloader_num_workers": "rows are read as they are needed",
    "ddp_find_unused_parameters": "a run has one process",
    "attn_implementation": "the attention kernel is chosen, and checked, when the model is loaded",
    "flash_attention": "the attention kernel is chosen, and checked, when the model is loaded",
    "tf32": "matrix products are as precise as model.dtype",
    "dataset_text_field": "the text is expected in the field text; for another: data.mapping.text=FIELD",
}

WRITE_RECIPE = "write a recipe: bottega init"

# Flags that are not supported: (reason, what to do instead).
REFUSED_FLAGS = {
    "beta": ("finetune trains with sft, and beta is a setting of dpo", f"{WRITE_RECIPE} dpo, and set objective.beta"),
    "push_to_hub": ("nothing is uploaded", "leave it out; the result is a folder that any tool can upload"),
    "hub_model_id": ("nothing is uploaded", "leave it out; the result is a folder that any tool can upload"),
    "deepspeed": ("a run has one process", "leave it out; to save memory: optim.offload=true, model.quantize=nf4"),
    "fsdp": ("a run has one process", "leave it out; to save memory: optim.offload=true, model.quantize=nf4"),
    "resume_from_checkpoint": ("finetune starts a new run", "to continue a run: bottega train --resume RUN"),
    "stage": ("finetune trains with sft", f"{WRITE_RECIPE} dpo, kto, reward or causal"),
    "eval_file": ("finetune validates on a part of the training files", "add data.validation=FILE after the flags"),
    "validation_file": (
        "finetune validates on a part of the training files",
        "add data.validation=FILE after the flags",
    ),
    "template": ("finetune uses the model's own chat template", "add data.template=FILE after the flags"),
    "config": ("configuration files of other tools are not supported", f"{WRITE_RECIPE} sft"),
}


def translate_arguments(args: Sequence[str], switches: set[str], tell: Callable[[str], None]) -> list[str]:
    """The command line with options of `bottega finetune`, followed by recipe overrides for all other known flags.

    switches  options that take no value
    tell      called with a note on each flag that has no effect
    """
    translated: list[str] = []
    overrides: list[str] = []
    remaining = list(reversed(args))  # the next word is the last item
    while remaining:
        word = remaining.pop()
        if word == "--":
            return [*translated, *reversed(remaining), *overrides]
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("-") or (not word.startswith("--") and name not in ("m", "d", "o")):
            translated.append(word)
        elif name in REFUSED_FLAGS:
            what, fix = REFUSED_FLAGS[name]
            raise bottega.RecipeError(what, where=_flag_spelling(name), fix=fix)
        elif name in IGNORED_FLAGS:
            _take_values(remaining, given=bool(equals))
            tell(f"{_flag_spelling(name)} has no effect: {IGNORED_FLAGS[name]}")
        elif name in SWITCH_OVERRIDES:
            overrides += [SWITCH_OVERRIDES[name]] * _is_switched_on(name, value if equals else None, remaining)
        elif name in RECIPE_KEYS:
            overrides.append(_override(name, value if equals else None, remaining))
        else:
            option = _flag_spelling(CANONICAL_NAMES.get(name, name))
            translated.append(option + equals + value)
            if not equals and remaining and option not in switches:
                # The option's value, even if it looks like a flag (`--max-steps -1`).
                translated.append(remaining.pop())
    return [*translated, *overrides]


def _override(name: str, value: str | None, remaining: list[str]) -> str:
    """The override of a flag in RECIPE_KEYS; its value is taken from the remaining words if not given with `=`."""
    key, translate = RECIPE_KEYS[name]
    if value is None:
        value = " ".join(_take_values(remaining, many=name.endswith(("modules", "target"))))
    if not value:
        raise bottega.RecipeError("a value is missing", where=_flag_spelling(name), fix=f"it becomes {key}")
    return f"{key}={translate(value)}"


def _flag_spelling(name: str) -> str:
    return ("--" if len(name) > 1 else "-") + name.replace("_", "-")


def _take_values(remaining: list[str], *, given: bool = False, many: bool = False) -> list[str]:
    """Pop the value of a flag off the remaining words, or several values; a `key=value` is an override, not a value.

    given  the flag has its value already, with `=`
    """
    values: list[str] = []
    while (
        remaining
        and not given
        and not remaining[-1].startswith("--")
        and "=" not in remaining[-1]
        and (many or not values)
    ):
        values.append(remaining.pop())
    return values


def _is_switched_on(name: str, value: str | None, remaining: list[str]) -> bool:
    """Whether a switch is on: alone, or by its value after `=` or as the next word."""
    if value is None and remaining and remaining[-1].lower() in BOOLEANS:
        value = remaining.pop()
    if value is not None and value.lower() not in BOOLEANS:
        fix = f"{_flag_spelling(name)} alone means true"
        raise bottega.RecipeError(f"{value!r} is neither true nor false", where=_flag_spelling(name), fix=fix)
    return value is None or BOOLEANS[value.lower()]
