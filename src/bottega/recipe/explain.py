"""pydantic's validation errors of a recipe, in plain words: which key is wrong, why, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from bottega import adapters, objectives, suggestions
from bottega.errors import RecipeError
from bottega.objectives import rewards
from bottega.recipe.files import PATH_KEYS, TEMPLATE_HINT

# One-line examples of sections, shown where a section has another type or is empty.
SECTION_EXAMPLES = {
    "model": "model: {base: FOLDER}",
    "data": "data: {train: FILE}",
    "objective": "objective: {kind: sft}",
    "adapter": "adapter: {rank: 16}",
    "optim": "optim: {epochs: 3}",
    "evaluate": "evaluate: {every: 50}",
    "save": "save: {every: 100}",
    "guard": "guard: {replay: FILE}",
    "verdict": "verdict: {metric: loss}",
    "devices": "devices: {device: cpu}",
}

# pydantic's error types for unknown keys.
UNKNOWN_KEY_ERRORS = ("extra_forbidden", "invalid_key")

# Names other tools use for keys, and the key's name here, within the same section.
FOREIGN_NAMES = {
    "learning_rate": "lr", "lr_scheduler_type": "schedule", "warmup_ratio": "warmup", "warmup_steps": "warmup",
    "num_train_epochs": "epochs", "num_epochs": "epochs", "max_steps": "steps", "batch_size": "examples",
    "micro_batch_size": "tokens", "max_grad_norm": "clip", "gradient_checkpointing": "checkpointing",
    "neftune_noise_alpha": "neftune", "optim": "optimizer", "r": "rank", "lora_r": "rank", "lora_alpha": "alpha",
    "lora_dropout": "dropout", "target_modules": "targets", "max_seq_length": "max_length", "seq_len": "max_length",
    "model_name_or_path": "base", "path": "base", "load_in_4bit": "quantize", "torch_dtype": "dtype",
    "eval_steps": "every", "save_steps": "every", "early_stopping_patience": "stop_after", "save_total_limit": "keep",
}  # fmt: skip


def explain_validation_error(
    error: ValidationError, document: Mapping[str, Any], where: str, recipe: type[BaseModel]
) -> RecipeError:
    """The most telling of the problems pydantic found, as a RecipeError.

    where   file or name the document came from
    recipe  the model that was validated: `schema.Recipe`, passed in because `schema` imports this module
    """
    problems = [(suggestions.error_keys(problem, document), problem) for problem in error.errors()]
    # Unknown keys first: a misspelt key also makes the right one missing. Then the longest path: of a union, the
    # branch that matched furthest is the one that was meant.
    keys, problem = min(problems, key=lambda item: (item[1]["type"] not in UNKNOWN_KEY_ERRORS, -len(item[0])))
    key, kind = ".".join(keys), problem["type"]
    if kind in UNKNOWN_KEY_ERRORS:
        known = list(_known_keys(*_section_model(document, keys[:-1], recipe)))
        return RecipeError(f"unknown key {key}", where=where, fix=_suggest_key(keys[-1], known))
    if kind == "missing":
        return _missing(keys, problem["input"], where)
    what, fix = suggestions.describe_errors([item for path, item in problems if path == keys])
    if key in SECTION_EXAMPLES and kind != "value_error":  # a value_error has a message of its own
        empty = problem["input"] is None
        what = "this section is empty" if empty else what
        optional = empty and not recipe.model_fields[key].is_required()
        fix = f"write {SECTION_EXAMPLES[key]}{', or leave the section out' if optional else ''}"
    elif PATH_KEYS.get(key) == "dataset" and kind in ("list_type", "model_type", "model_attributes_type"):
        what, fix = "expected a path, a source with a path, or a list of these", SECTION_EXAMPLES["data"]
    return RecipeError(f"{key}: {what}" if key else what, where=where, fix=fix or _default_fix(key))


def _missing(keys: Sequence[str], section: Any, where: str) -> RecipeError:
    """The error of a missing key, or of a missing item of a fixed-length list such as `betas`."""
    if keys[-1].isdecimal():
        what = f"{'.'.join(keys[:-1])}: a value is missing"
        return RecipeError(what, where=where, fix="write them all: [0.9, 0.999]")
    return RecipeError(f"the key {'.'.join(keys)} is missing", where=where, fix=_how_to_add(keys, section))


def _how_to_add(keys: Sequence[str], section: Any) -> str:
    """How to add a missing key to the keys its section already has."""
    example = SECTION_EXAMPLES.get(keys[0], TEMPLATE_HINT)
    if len(keys) == 1 or f"{keys[-1]}:" in example:
        return f"add it: {example}"
    beside = f" beside {suggestions.join_names(section)}" if isinstance(section, Mapping) and section else ""
    return f"write {keys[-1]}: …{beside}"


def _default_fix(key: str) -> str:
    # Errors without a key come from validators that compare two keys.
    return f"change {key}; {TEMPLATE_HINT}" if key else f"change one of the two; {TEMPLATE_HINT}"


def _suggest_key(word: str, known: list[str]) -> str:
    """The known key that an unknown one probably means: other tools' name of it, or either of these misspelt."""
    foreign = {name: key for name, key in FOREIGN_NAMES.items() if key in known}
    name = word.lower().replace("-", "_")
    if name in foreign:
        return f"it is called {foreign[name]} here"
    nearest = suggestions.nearest_name(name, [*known, *foreign])
    return f"did you mean {foreign[nearest]}?" if nearest in foreign else suggestions.suggest_name(word, known)


def _section_model(
    document: Mapping[str, Any], path: list[str], recipe: type[BaseModel]
) -> tuple[type[BaseModel], list[str]]:
    """(model, remaining path) of the section at `path`; adapters, objectives and rewards have one model per kind."""
    if path[:1] == ["adapter"]:
        return adapters.load(document["adapter"].get("kind", adapters.DEFAULT)), path[1:]
    if path[:1] != ["objective"]:
        return recipe, path
    options = document["objective"]
    if path[1:2] != ["rewards"]:
        return objectives.load(options["kind"]).class_for(options), path[1:]
    # `rewards` may be one reward instead of a list, and then the path has no index.
    items = options["rewards"] if isinstance(options["rewards"], list) else [options["rewards"]]
    index, inner = (int(path[2]), path[3:]) if path[2:] and path[2].isdecimal() else (0, path[2:])
    return rewards.load(items[index]["kind"]), inner


def _known_keys(model: type[BaseModel], path: list[str]) -> Iterator[str]:
    """The keys allowed in the section at `path`."""
    for name, field in model.model_fields.items():
        if not path:
            yield field.alias or name
        elif path[0] == name:
            rest = [key for key in path[1:] if not key.isdigit()]  # without list indices
            for section in _nested_models(field.annotation):
                yield from _known_keys(section, rest)


def _nested_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every pydantic model an annotation allows, in unions and lists too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _nested_models(inner)
