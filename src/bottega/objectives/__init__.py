"""What training minimises: one file an objective, found by its file name.

To add one, write `objectives/<kind>.py` with one subclass of `Objective`; its fields are its options in the recipe,
its `rows` turns a record into what must be predicted, its `loss` turns scores into named sums. Nothing else needs to
know of it: the contract tests find it in the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bottega import plugins
from bottega.objectives._base import (
    SKIPPED_METRIC,
    HeadKind,
    Likelihood,
    Objective,
    Output,
    Pooling,
    Score,
    Statistic,
    logistic_loss,
    pair_metrics,
    smoothed_nll,
)
from bottega.objectives._on_policy import Answer, OnPolicy, equal_rewards

__all__ = [
    "SKIPPED_METRIC",
    "Answer",
    "HeadKind",
    "Likelihood",
    "Objective",
    "OnPolicy",
    "Output",
    "Pooling",
    "Score",
    "Statistic",
    "build_objective",
    "equal_rewards",
    "kinds",
    "load",
    "logistic_loss",
    "nearest_builtin_options",
    "pair_metrics",
    "smoothed_nll",
]

DEFAULT_KINDS: Mapping[HeadKind, str] = {
    "language": "sft",
    "sequence": "classify",
    "token": "tag",
    "masked": "masked",
    "embedding": "contrastive",
}
"""An objective of ours for models with each head."""


def nearest_builtin_options(objective: Objective) -> dict[str, Any]:
    """The options of the objective of ours that is nearest: a model is used the same way, without code of another's."""
    names = {f"{__name__}.{kind}" for kind in kinds() if kind != "custom"}
    above = (one for one in type(objective).__mro__ if issubclass(one, Objective) and one.__module__ in names)
    near = next(above, load(DEFAULT_KINDS[objective.head]))
    options = objective.model_dump(mode="json", include=set(near.model_fields))
    return options | {"kind": near.__module__.rpartition(".")[2]}


def kinds() -> list[str]:
    """Every objective in the folder, by name."""
    return plugins.module_names(__path__)


def build_objective(options: Mapping[str, Any]) -> Objective:
    """The objective with these options, `kind` among them."""
    return load(options["kind"]).class_for(options).model_validate(dict(options))


def load(kind: str) -> type[Objective]:
    """The objective class of `objectives/<kind>.py`."""
    return plugins.load_class(__name__, kind, Objective)
