"""What flags of other tools are called, and what they come to: an option of `bottega finetune`, or a key of a recipe.

As TRL, transformers, LLaMA-Factory, Axolotl, Unsloth, AutoTrain, mlx-lm and litgpt spell them; dashes and underscores
are the same. What has no counterpart is refused, or told to change nothing, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bottega.errors import RecipeError

TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
"""What other tools let follow a switch."""

SAME = {
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
"""Options of ours, and what else they are called."""

OURS = {other: ours for ours, others in SAME.items() for other in others}


def _as_it_is(value: str) -> str:
    return value


def _schedule(value: str) -> str:
    names = {"constant_with_warmup": "constant", "cosine_with_min_lr": "cosine", "warmup_stable_decay": "wsd"}
    return _one_of(names.get(value, value), ("cosine", "linear", "constant", "wsd"), "lr-scheduler-type")


def _optimizer(value: str) -> str:
    kind = "adamw" if value.lower().startswith(("adamw", "paged_adamw", "adam")) and value != "adamax" else value
    return _one_of(kind, ("adamw", "muon"), "optim")


def _targets(value: str) -> str:
    names = value.strip("[]").replace(",", " ").split()
    return "all-linear" if names in (["all"], ["all-linear"]) else f"[{', '.join(names)}]"


def _one_of(value: str, known: Sequence[str], flag: str) -> str:
    if value not in known:
        raise RecipeError(f"{value!r} is not known here", where=f"--{flag}", fix=f"one of: {', '.join(known)}")
    return value


KEYS: dict[str, tuple[str, Callable[[str], str]]] = {
    "weight_decay": ("optim.weight_decay", _as_it_is),
    "optim": ("optim.optimizer", _optimizer),
    "optimizer": ("optim.optimizer", _optimizer),
    "lr_scheduler_type": ("optim.schedule", _schedule),
    "lr_scheduler": ("optim.schedule", _schedule),
    "lr_schedule": ("optim.schedule", _schedule),
    "warmup_ratio": ("optim.warmup", _as_it_is),
    "warmup_steps": ("optim.warmup", _as_it_is),
    "max_grad_norm": ("optim.clip", _as_it_is),
    "neftune_noise_alpha": ("optim.neftune", _as_it_is),
    "early_stopping_patience": ("evaluate.stop_after", _as_it_is),
    "save_total_limit": ("save.keep", _as_it_is),
    "run_name": ("name", _as_it_is),
    "torch_dtype": ("model.dtype", _as_it_is),
    "dtype": ("model.dtype", _as_it_is),
    "tokenizer_name": ("model.tokenizer", _as_it_is),
    "lora_target_modules": ("adapter.targets", _targets),
    "lora_target": ("adapter.targets", _targets),
    "target_modules": ("adapter.targets", _targets),
    **dict.fromkeys(
        ("max_seq_length", "max_length", "cutoff_len", "sequence_len", "model_max_length", "block_size", "max_seq_len"),
        ("data.max_length", _as_it_is),
    ),
}
"""Flags that say what a key of a recipe says, and how their values are written there."""

IN_A_RECIPE = {
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
"""Options of `bottega finetune`, and others that it does without, as keys of a recipe."""

SWITCHES = {
    "bf16": "model.dtype=bfloat16",
    "fp16": "model.dtype=float16",
    "load_in_4bit": "model.quantize=nf4",
    "load_in_8bit": "model.quantize=fp8",
}
"""Switches, and the key they set when they are on."""

IDLE = {
    "packing": "rows are always packed, and each still sees itself alone",
    "sample_packing": "rows are always packed, and each still sees itself alone",
    "group_by_length": "rows are packed by tokens, so their lengths cost nothing",
    "use_peft": "--method lora is the default; --method full trains every weight",
    "do_train": "bottega finetune trains",
    "do_eval": "--eval-split says what is validated on",
    "eval_strategy": "--eval-steps says how often; by default ten times in a run",
    "evaluation_strategy": "--eval-steps says how often; by default ten times in a run",
    "save_strategy": "--save-steps says how often",
    "logging_strategy": "--logging-steps says how often",
    "load_best_model_at_end": "the weights of the best validation are the result",
    "overwrite_output_dir": "a run is never written over",
    "remove_unused_columns": "fields that are not read are left alone",
    "dataloader_num_workers": "rows are read as they are needed",
    "ddp_find_unused_parameters": "a run has one process",
    "attn_implementation": "how a model is computed is chosen, and proved, when it is loaded",
    "flash_attention": "how a model is computed is chosen, and proved, when it is loaded",
    "tf32": "products are as exact as the precision of the run",
    "dataset_text_field": "a text stands in the field text; another: data.mapping.text=FIELD",
}
"""Flags that change nothing, and why."""

RECIPE = "write a recipe: bottega init"
REFUSED = {
    "beta": ("finetune answers rows, and beta belongs to preferences", f"{RECIPE} dpo, and objective.beta in it"),
    "push_to_hub": ("nothing is sent anywhere", "leave it away; the result is a folder that any tool uploads"),
    "hub_model_id": ("nothing is sent anywhere", "leave it away; the result is a folder that any tool uploads"),
    "deepspeed": ("a run has one process", "leave it away; less memory: optim.offload=true, model.quantize=nf4"),
    "fsdp": ("a run has one process", "leave it away; less memory: optim.offload=true, model.quantize=nf4"),
    "resume_from_checkpoint": ("a run is continued as it is", "bottega train --resume RUN"),
    "stage": ("finetune answers rows", f"{RECIPE} dpo, kto, reward or causal"),
    "eval_file": ("rows to validate on are a slice of the same files here", "data.validation=FILE, after the flags"),
    "validation_file": ("rows to validate on are a slice of the same files", "data.validation=FILE, after the flags"),
    "template": ("the chat template is the model's own", "data.template=FILE, after the flags"),
    "config": ("a configuration of another tool is not read", f"{RECIPE} sft"),
}
"""Flags that cannot be had: what, and what to do."""


def translated(args: Sequence[str], switches: set[str], tell: Callable[[str], None]) -> list[str]:
    """A command line with our names of options; those that are keys of a recipe stand at its end as overrides.

    switches  our options that take no value
    tell      called with what a flag that changes nothing comes to
    """
    found: list[str] = []
    overrides: list[str] = []
    waiting = list(reversed(args))
    while waiting:
        word = waiting.pop()
        if word == "--":
            return [*found, *reversed(waiting), *overrides]
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("-") or (not word.startswith("--") and name not in ("m", "d", "o")):
            found.append(word)
        elif name in REFUSED:
            what, fix = REFUSED[name]
            raise RecipeError(what, where=_flag(name), fix=fix)
        elif name in IDLE:
            _values(waiting, given=bool(equals))
            tell(f"{_flag(name)} changes nothing: {IDLE[name]}")
        elif name in SWITCHES:
            overrides += [SWITCHES[name]] * _switched(name, value if equals else None, waiting)
        elif name in KEYS:
            key, write = KEYS[name]
            given = value if equals else " ".join(_values(waiting, many=name.endswith(("modules", "target"))))
            if not given:
                raise RecipeError("a value is missing", where=_flag(name), fix=f"it becomes {key}")
            overrides.append(f"{key}={write(given)}")
        else:
            option = _flag(OURS.get(name, name))
            found.append(option + equals + value)
            if not equals and waiting and option not in switches:
                found.append(waiting.pop())  # a value, whatever it looks like
    return [*found, *overrides]


def _flag(name: str) -> str:
    return ("--" if len(name) > 1 else "-") + name.replace("_", "-")


def _values(waiting: list[str], *, given: bool = False, many: bool = False) -> list[str]:
    """The words that belong to a flag, taken from those that wait; a key=value is none."""
    found: list[str] = []
    while waiting and not given and not waiting[-1].startswith("--") and "=" not in waiting[-1] and (many or not found):
        found.append(waiting.pop())
    return found


def _switched(name: str, value: str | None, waiting: list[str]) -> bool:
    """Whether a switch is on: alone, or with a word for it."""
    if value is None and waiting and waiting[-1].lower() in TRUTH:
        value = waiting.pop()
    if value is not None and value.lower() not in TRUTH:
        fix = f"{_flag(name)} alone means true"
        raise RecipeError(f"{value!r} is neither true nor false", where=_flag(name), fix=fix)
    return value is None or TRUTH[value.lower()]


def keys() -> Iterator[tuple[str, str]]:
    """(flag, key of a recipe) of all that is translated."""
    yield from ((_flag(name), key) for name, (key, _) in KEYS.items())
    yield from ((_flag(name), key) for name, key in SWITCHES.items())
