"""Objectives: what training minimizes. Each is one file in this folder, found by its file name.

To add one, write `objectives/<kind>.py` with one subclass of `Objective`: its fields are its options in the recipe,
its `rows` encodes a record as token rows, its `loss` turns the model's scores into named sums. No other file has to
change, and `tests/behaviour/test_each_objective.py` covers it from then on. `docs/extending.md` has a worked example.
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
    Prediction,
    Score,
    Statistic,
    completion_row,
    smoothed_nll,
)
from bottega.objectives._embeddings import pooled_row, positive_mask, split_candidates
from bottega.objectives._labels import parse_number
from bottega.objectives._on_policy import OnPolicy, RewardedAnswer, equal_rewards
from bottega.objectives._pairs import chosen_minus_rejected, logistic_loss, pair_metrics
from bottega.objectives._tags import decode_tags, snap_to_words

__all__ = [
    "CUSTOM",
    "DEFAULT_KINDS",
    "DEFAULT_OBJECTIVE",
    "PLAIN_TEXT",
    "SKIPPED_METRIC",
    "SPANS_OF_TEXT",
    "SUGGESTION_ORDER",
    "HeadKind",
    "Likelihood",
    "Objective",
    "OnPolicy",
    "Output",
    "Pooling",
    "Prediction",
    "RewardedAnswer",
    "Score",
    "Statistic",
    "build_objective",
    "chosen_minus_rejected",
    "completion_row",
    "decode_tags",
    "default_for_head",
    "equal_rewards",
    "for_plain_text",
    "kinds",
    "load",
    "logistic_loss",
    "nearest_builtin_options",
    "pair_metrics",
    "parse_number",
    "pooled_row",
    "positive_mask",
    "smoothed_nll",
    "snap_to_words",
    "split_candidates",
]

# Predicts answers: what fine-tuning is where nothing else is said.
DEFAULT_OBJECTIVE = "sft"

# The objective that stands for a custom one that derives from no built-in one, by the head it trains.
DEFAULT_KINDS: Mapping[HeadKind, str] = {
    "language": DEFAULT_OBJECTIVE,
    "sequence": "classify",
    "token": "tag",
    "masked": "masked",
    "embedding": "contrastive",
}

# Predict text as it is, by a decoder and by an encoder–decoder.
PLAIN_TEXT, SPANS_OF_TEXT = "causal", "span"

# The objective in a file of the user's.
CUSTOM = "custom"

# Rows of which nothing else is known are for the first of these that reads them.
SUGGESTION_ORDER = ("dpo", "kto", "classify", "tag", "contrastive", "causal", "sft", "grpo")


def for_plain_text(*, encoder_decoder: bool) -> Objective:
    """The objective that trains a language model on texts without a prompt."""
    return build_objective({"kind": SPANS_OF_TEXT if encoder_decoder else PLAIN_TEXT})


def default_for_head(head: HeadKind) -> Objective:
    """The usual objective of models with this head, at its default options."""
    return build_objective({"kind": DEFAULT_KINDS[head]})


def kinds() -> list[str]:
    """The names of all objectives."""
    return plugins.module_names(__path__)


def load(kind: str) -> type[Objective]:
    """The objective class of `objectives/<kind>.py`."""
    return plugins.load_class(__name__, kind, Objective)


def build_objective(options: Mapping[str, Any]) -> Objective:
    """The objective with these options, `kind` among them; a pydantic ValidationError if they are invalid."""
    return load(options["kind"]).class_for(options).model_validate(dict(options))


def nearest_builtin_options(objective: Objective) -> dict[str, Any]:
    """The options of the built-in objective that a custom one derives from.

    A run stores them so that its model can be used without executing the user's file, which may be gone by then.
    """
    # By module, because a custom class and its wrapper are subclasses of a built-in one too.
    builtin_modules = {f"{__name__}.{kind}" for kind in kinds() if kind != CUSTOM}
    bases = (base for base in type(objective).__mro__ if issubclass(base, Objective))
    builtin_bases = (base for base in bases if base.__module__ in builtin_modules)
    nearest = next(builtin_bases, load(DEFAULT_KINDS[objective.head]))
    # Options that only the custom class has mean nothing to the built-in one.
    options = objective.model_dump(mode="json", include=set(nearest.model_fields))
    return options | {"kind": nearest.__module__.rpartition(".")[2]}
