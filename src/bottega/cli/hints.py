"""What to write instead of an option or a command that does not exist: other tools have it, or it is misspelt."""

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

ELSEWHERE = {
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
"""Options of other tools, and the parameters of our commands that say the same."""

SLICE = 'data.train={path: FILE, split: "train[:100]"}'
"""How a recipe says that only some of the rows are read, as the options say that stand for `rows` above."""

RECIPES = {
    "bottega init": (("",), "in the recipe that it writes"),
    "bottega audit": (("data.", "model."), "in a recipe, which may be audited instead of rows,"),
}
"""Commands that are not given a recipe first and yet have to do with one: which of its keys they heed, and where."""

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
"""Commands of other tools, and ours."""


def for_option(option: str, path: str, parameters: Mapping[str, str]) -> str:
    """What to write instead of an option.

    path        the command, with what it stands in: `bottega train`
    parameters  its parameters, each with the option that gives it, or how it is shown where it stands without one
    """
    name = option.lstrip("-").replace("-", "_")
    ours = CANONICAL_NAMES.get(name, name)
    for other in (name, ours, *ELSEWHERE.get(ours, ()), *ELSEWHERE.get(name, ())):
        if other in parameters:
            given = parameters[other]
            return f"here it is {given}" if given.startswith("-") else f"it stands without a flag: {path} {given}"
    near = difflib.get_close_matches(option, [given for given in parameters.values() if given.startswith("-")], 1, 0.8)
    key = key_of(name)
    if key and "recipe" in parameters:
        word = key if "=" in key else f"{key}=…"
        return f"it is a key of the recipe: {path} RECIPE {shlex.quote(word) if ' ' in word else word}"
    if near:
        return f"did you mean {near[0]}?"
    heeded, where = RECIPES.get(path, ((), ""))
    if key.startswith(heeded) and key:
        return f"{key} {where} says it; what is taken here: {path} -h"
    if not key and (name in REFUSED_FLAGS or name in IGNORED_FLAGS):
        return f"leave it away: {REFUSED_FLAGS[name][0] if name in REFUSED_FLAGS else IGNORED_FLAGS[name]}"
    also = "; keys of a recipe may follow the flags: optim.lr=1e-4" if "model_name_or_path" in parameters else ""
    return f"what is taken here: {path} -h{also}"


def key_of(name: str) -> str:
    """The key of a recipe that says what a flag says, with its value where the flag means one; empty for none."""
    ours = CANONICAL_NAMES.get(name, name)
    if "rows" in ELSEWHERE.get(name, ()):
        return SLICE
    return SWITCH_OVERRIDES.get(name) or (RECIPE_KEYS[name][0] if name in RECIPE_KEYS else OPTION_KEYS.get(ours, ""))


def for_command(word: str, path: str, commands: Iterable[str]) -> str:
    """What to write instead of a command; `path` is what it stands in."""
    if path == "bottega" and (ours := _command_for(word)):
        return ours
    near = difflib.get_close_matches(word, list(commands), 1)
    return f"did you mean {path} {near[0]}?" if near else f"what there is: {path} -h"


def _command_for(word: str) -> str:
    """What to write instead of a word that follows `bottega` and means something here; empty where it does not."""

    if word in COMMANDS:
        return f"here it is: bottega {COMMANDS[word]}"
    if word in bottega.objective_kinds():
        return f"write a recipe for it, and run that: bottega init {word}"
    return f"bottega train {word}" if Path(word).suffix in (".yaml", ".yml") else ""
