"""A job as a recipe: its method as an objective, its hyper-parameters as numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bottega
from bottega.server.jobs.methods import METHODS

# The rank of a new adapter.
RANK = 16

# The hosted API's rule of thumb: three passes, more over few rows, fewer over many.
PASSES, FEW_ROWS, MANY_ROWS, MOST_PASSES = 3, 100, 25_000, 25

# The fraction of all rows that an update learns from.
BATCH_FRACTION = 0.002

# Validations of a run, by default.
VALIDATIONS = 10

# Prompts of an update that learns from rewards: of one alone nothing is known if all its answers are equal.
FEWEST_PROMPTS = 4

# Strength of the reference that pairs are compared with, unless a job says otherwise.
BETA = 0.1


def resolve_hyperparameters(method: str, asked: dict[str, Any], rows: int) -> dict[str, Any]:
    """The hyper-parameters of a job with numbers in the place of "auto"."""

    def number(name: str, default: float) -> Any:
        return default if asked.get(name) in (None, "auto") else asked[name]

    passes = PASSES
    if PASSES * rows < FEW_ROWS:
        passes = min(MOST_PASSES, FEW_ROWS // rows)
    elif PASSES * rows > MANY_ROWS:
        passes = max(1, MANY_ROWS // rows)
    kind = METHODS[method].rows
    resolved = {
        "n_epochs": number("n_epochs", passes),
        "batch_size": number(
            "batch_size", max(FEWEST_PROMPTS if kind == "prompts" else 1, round(BATCH_FRACTION * rows))
        ),
        "learning_rate_multiplier": number("learning_rate_multiplier", 1.0),
    }
    if kind == "pairs":
        resolved["beta"] = number("beta", BETA)
    if kind == "prompts":
        resolved["compute_multiplier"] = number("compute_multiplier", 1.0)
    return resolved


def updates_per_pass(rows: int, hyperparameters: dict[str, Any]) -> int:
    """Updates in which all rows are seen once."""
    return int(-(-rows // hyperparameters["batch_size"]))


def make_recipe(
    *,
    name: str,
    method: str,
    source: str,
    seed: int,
    rows: int,
    hyperparameters: dict[str, Any],
    grader: dict[str, Any] | None = None,
    training: Path,
    validation: Path | None,
) -> bottega.Recipe:
    """The recipe of a job. An adapter is trained further; any other model gets a new one.

    hyperparameters  with numbers only
    """
    located = bottega.locate(source)
    continued = located.adapter is not None
    document: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "model": {"base": located.base if continued else source, "quantize": located.quantize},
        "adapter": {"from": source} if continued else {"rank": RANK},
        "objective": METHODS[method].options(hyperparameters, grader),
        "data": {"train": str(training)},
        "optim": {"epochs": hyperparameters["n_epochs"], "examples": hyperparameters["batch_size"]},
        # One after every pass, which is served; the best ones so far are kept beside them.
        "save": {
            "every": updates_per_pass(rows, hyperparameters),
            "keep": hyperparameters["n_epochs"] + VALIDATIONS,
        },
    }
    if validation is not None:
        document["data"]["validation"] = str(validation)
    recipe = bottega.Recipe.parse(document)
    document["optim"]["lr"] = bottega.peak_lr(recipe) * hyperparameters["learning_rate_multiplier"]
    return bottega.Recipe.parse(document)
