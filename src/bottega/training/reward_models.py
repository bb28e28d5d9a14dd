"""Reward models that judge what a policy writes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from bottega.batch import Row
from bottega.errors import ModelError
from bottega.hardware.memory import out_of_memory_errors
from bottega.models.config import is_encoder, load_stored_config, position_limit
from bottega.models.scorer import Scorer, score_batches
from bottega.models.scorer_setup import load_scorer
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives.rewards import SampledAnswer
from bottega.records import Unusable
from bottega.runs.resolve import resolve
from bottega.tokenization.codec import Codec

UNLIMITED = 1 << 30


class RewardModel(NamedTuple):
    """A reward model, its tokenizer, and how many tokens it reads."""

    scorer: Scorer
    codec: Codec
    limit: int


class RewardModels:
    """Reward models, each loaded once, when it is first asked.

    dtype  what they compute in
    """

    def __init__(self, device: str, dtype: str) -> None:
        self.device, self.dtype = device, dtype
        self.load = cache(self._load)

    def __call__(self, name: str, written: Sequence[SampledAnswer]) -> list[float]:
        """What the model of this name says of each answer."""
        model = self.load(name)
        found = [math.nan] * len(written)
        with torch.no_grad(), out_of_memory_errors():
            for numbers, batch in score_batches([_read(one, model) for one in written], model.scorer):
                scores = model.scorer(batch, frozenset({"logits"}))["logits"][:, 0].tolist()
                for number, score in zip(numbers, scores, strict=True):
                    found[number] = score
        return found

    def _load(self, name: str) -> RewardModel:
        _refuse_other_models(name)
        tokenizer = load_tokenizer(locate(name).tokenizer)
        scorer = load_scorer(name, self.dtype, self.device, "sequence", ["reward"], tokenizer)
        config = scorer.network.config
        codec = Codec(tokenizer, max_length=UNLIMITED, too_long="error", both_ways=is_encoder(config))
        return RewardModel(scorer, codec, position_limit(config) or UNLIMITED)


def _refuse_other_models(name: str) -> None:
    """A ModelError of a model that has no score to give: a new head would be drawn for it, at random."""
    recipe = resolve(name).recipe
    if recipe is not None:
        kind = recipe.objective.kind
        sound, what = recipe.objective.prediction == "preference", f"trained with {kind}"
    else:
        config = load_stored_config(locate(name).base)
        (what, *_) = config.architectures or ["a model of no known kind"]
        sound = config.num_labels == 1 and what.endswith("ForSequenceClassification")
        what += f" with {config.num_labels} labels" if what.endswith("ForSequenceClassification") else ""
    if not sound:
        fix = "train one with objective: {kind: reward}, and name its run"
        raise ModelError(f"no reward model: {what}", where=name, fix=fix)


def _read(one: SampledAnswer, model: RewardModel) -> Row:
    """A prompt with its answer, as training has it; an empty answer is the prompt alone.

    What is too long loses the beginning of its prompt, with a warning: the answer is what is judged.
    """
    posed, codec = one.record, model.codec
    try:
        ids = codec.encode_completion(posed.where, posed.prompt, one.text, posed.tools, posed.variables).tokens
    except Unusable:
        ids = np.array(codec.encode_prompt(posed.prompt, posed.tools, posed.variables), np.int64)
    if len(ids) > model.limit:
        said = (
            f"the reward model reads {model.limit} tokens; of a longer prompt with its answer the beginning is left out"
        )
        warnings.warn(said, RuntimeWarning, stacklevel=2)
        ids = np.concatenate([ids[:1], ids[len(ids) - model.limit + 1 :]])
    return codec.pooled_row(ids, 0)
