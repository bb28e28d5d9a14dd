"""What to write instead of an option or a command that does not exist: other tools have it, or it is misspelled."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import bottega
from bottega.cli.flag_aliases import (
    CANONICAL_NAMES,
    IGNORED_FLAGS,
    OPTION_KEYS,
    RECIPE_KEYS,
    REFUSED_FLAGS,
    SWITCH_OVERRIDES,
)

# Options of other tools → parameters of the commands with the same meaning.
OPTION_PARAMETERS = {
    "model_name_or_path": ("model", "run"),
    "data_files": ("data", "files"),
    "data_name": ("data", "files"),
    "output_path": ("out",),
    "config": ("recipe",),
    "config_file": ("recipe",),
    "resume_from_checkpoint": ("resume",),
    "max_new_tokens": ("tokens",),
    "max_tokens": ("tokens",),
    "max_length": ("tokens",),
    "num_predict": ("tokens",),
    "temp": ("temperature",),
    "num_return_sequences": ("number",),
    "prompt": ("prompts", "texts"),
    "text": ("texts",),
    "limit": ("rows", "train_split"),
    "max_samples": ("rows", "train_split"),
    "max_train_samples": ("rows", "train_split"),
    "num_samples": ("rows", "number", "train_split"),
    "num_fewshot": ("shots",),
    "tasks": ("lm_eval",),
    "vocab_size": ("vocab",),
}

# How a recipe limits the number of rows, for options that mean `rows` above.
SLICE = 'data.train={path: FILE, split: "train[:100]"}'

# Commands that do not take a recipe as first argument, but relate to one: (prefixes of the keys they use, where).
RECIPE_COMMANDS = {
    "bottega init": (("",), "in the recipe that it writes"),
    "bottega audit": (("data.", "model."), "in a recipe, which may be audited instead of rows"),
}

# Commands of other tools → bottega's.
COMMANDS = {
    "sft": "finetune",
    "lora": "finetune",
    "tune": "finetune",
    "fine-tune": "finetune",
    "pretrain": "init causal",
    "run": "train",
    "fit": "train",
    "resume": "train --resume RUN",
    "continue": "train --resume RUN",
    "eval": "evaluate",
    "test": "evaluate",
    "infer": "generate",
    "inference": "generate",
    "predict": "classify",
    "complete": "generate",
    "list": "runs",
    "ls": "runs",
    "status": "runs",
    "report": "evaluate",
    "check": "audit",
    "env": "doctor",
    "tokenize": "preview",
}

# Similarity, from 0 to 1, from which an option counts as misspelled. Higher than difflib's default of 0.6: names of
# options share many letters by chance.
MIN_SIMILARITY = 0.8


def for_option(option: str, path: str, parameters: Mapping[str, str]) -> str:
    """A hint on what to write instead of an option.

    path        the full command: `bottega train`
    parameters  name of each of its parameters → its option, or the name of the argument in the help
    """
    name = option.lstrip("-").replace("-", "_")
    canonical = CANONICAL_NAMES.get(name, name)
    for parameter in (name, canonical, *OPTION_PARAMETERS.get(canonical, ()), *OPTION_PARAMETERS.get(name, ())):
        if parameter in parameters:
            usage = parameters[parameter]
            return f"use {usage}" if usage.startswith("-") else f"give it as an argument: {path} {usage}"
    key = recipe_key(name)
    if key and "recipe" in parameters:
        override = key if "=" in key else f"{key}=…"
        return f"set it in the recipe: {path} RECIPE {shlex.quote(override) if ' ' in override else override}"
    options = [usage for usage in parameters.values() if usage.startswith("-")]
    similar = difflib.get_close_matches(option, options, 1, MIN_SIMILARITY)
    if similar:
        return f"did you mean {similar[0]}?"
    prefixes, where = RECIPE_COMMANDS.get(path, ((), ""))
    if key and key.startswith(prefixes):
        return f"set {key} {where}; for the options of this command: {path} -h"
    if not key and (name in REFUSED_FLAGS or name in IGNORED_FLAGS):
        return f"leave it out: {REFUSED_FLAGS[name][0] if name in REFUSED_FLAGS else IGNORED_FLAGS[name]}"
    # Only `finetune` has this parameter.
    overrides = "; recipe keys may follow the flags: optim.lr=1e-4" if "model_name_or_path" in parameters else ""
    return f"for its options: {path} -h{overrides}"


def recipe_key(name: str) -> str:
    """The recipe key for a flag of another tool, with a value if the flag implies one; empty if there is none."""
    canonical = CANONICAL_NAMES.get(name, name)
    if "rows" in OPTION_PARAMETERS.get(name, ()):
        return SLICE
    if name in SWITCH_OVERRIDES:
        return SWITCH_OVERRIDES[name]
    return RECIPE_KEYS[name][0] if name in RECIPE_KEYS else OPTION_KEYS.get(canonical, "")


def for_command(word: str, path: str, commands: Iterable[str]) -> str:
    """A hint on what to write instead of a command of the group `path`."""
    if path == "bottega" and (hint := _top_level_hint(word)):
        return hint
    similar = difflib.get_close_matches(word, list(commands), 1)
    return f"did you mean {path} {similar[0]}?" if similar else f"for its commands: {path} -h"


def _top_level_hint(word: str) -> str:
    """A hint for a word after `bottega` that is another tool's command, an objective or a recipe; else empty."""
    if word in COMMANDS:
        return f"use bottega {COMMANDS[word]}"
    if word in bottega.objective_kinds():
        return f"write a recipe for it, and train with that: bottega init {word}"
    return f"use bottega train {word}" if Path(word).suffix in (".yaml", ".yml") else ""
