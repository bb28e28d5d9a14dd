"""Models that judge sampled or generated answers: reward models score them, language models are asked about them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from bottega.batch import Row
from bottega.errors import ModelError
from bottega.hardware.memory import out_of_memory_errors
from bottega.inference.language_model import LanguageModel
from bottega.inference.open_model import UNLIMITED, find_model, open_model
from bottega.models.config import load_stored_config
from bottega.models.scorer import Scorer, score_batches
from bottega.models.source import locate
from bottega.objectives.rewards import SampledAnswer
from bottega.records import Unusable
from bottega.runs.resolve import resolve
from bottega.sampling import Sampling
from bottega.tokenization.codec import Codec


class RewardModel(NamedTuple):
    """A reward model, its codec, and the most tokens it reads."""

    scorer: Scorer
    codec: Codec
    limit: int


class LoadedJudges:
    """Models that judge, by name, each loaded on first use.

    dtype  of their weights and computation
    """

    def __init__(self, device: str, dtype: str) -> None:
        self.device, self.dtype = device, dtype
        self.load = cache(self._load)
        self.load_judge = cache(self._load_judge)

    def __call__(self, name: str, written: Sequence[SampledAnswer]) -> list[float]:
        """The score that a model gives each answer."""
        model = self.load(name)
        result = [math.nan] * len(written)
        with torch.no_grad(), out_of_memory_errors():
            for indices, batch in score_batches([_encode(answer, model) for answer in written], model.scorer):
                scores = model.scorer(batch, frozenset({"logits"}))["logits"][:, 0].tolist()  # [N, 1] → N
                for index, score in zip(indices, scores, strict=True):
                    result[index] = score
        return result

    def ask(self, name: str, messages: Sequence[Mapping[str, Any]], settings: Sampling) -> str:
        """What a language model answers."""
        return self.load_judge(name).chat(messages, settings).text

    def _load_judge(self, name: str) -> LanguageModel:
        # Found as any other; opened as whatever takes part in a training.
        opened = open_model(
            find_model(name, "language").name, "language", dtype=self.dtype, device=self.device, native=False
        )
        return LanguageModel(name, dtype=self.dtype, device=self.device, opened=opened)

    def _load(self, name: str) -> RewardModel:
        _refuse_other_models(name)
        opened = open_model(name, "sequence", dtype=self.dtype, device=self.device, labels=["reward"], native=False)
        # The codec has no limit of its own: `_encode` cuts the beginning of a long row, a codec would cut its end.
        return RewardModel(opened.scorer, opened.codec(UNLIMITED), opened.limit or UNLIMITED)


def _refuse_other_models(name: str) -> None:
    """Raise a ModelError for a model without a reward head: a random one would be added to it silently."""
    recipe = resolve(name).recipe
    if recipe is not None:
        is_reward_model = recipe.objective.prediction == "preference"
        what = f"trained with {recipe.objective.kind}"
    else:
        config = load_stored_config(locate(name).base)
        (what, *_) = config.architectures or ["a model of unknown architecture"]
        is_reward_model = config.num_labels == 1 and what.endswith("ForSequenceClassification")
        what += f" with {config.num_labels} labels" if what.endswith("ForSequenceClassification") else ""
    if not is_reward_model:
        fix = "train one with objective: {kind: reward}, and name its run"
        raise ModelError(f"not a reward model: {what}", where=name, fix=fix)


def _encode(answer: SampledAnswer, model: RewardModel) -> Row:
    """The row of a prompt with its answer, as the reward model was trained on; for an empty answer, the prompt alone.

    If it is too long, the beginning of the prompt is cut with a warning, because the answer is what is scored.
    """
    prompt, codec = answer.record, model.codec
    try:
        ids = codec.encode_completion(prompt.where, prompt.prompt, answer.text, prompt.tools, prompt.variables).tokens
    except Unusable:
        ids = np.array(codec.encode_prompt(prompt.prompt, prompt.tools, prompt.variables), np.int64)
    if len(ids) > model.limit:
        message = f"the reward model reads {model.limit} tokens; the beginning of longer prompts is cut"
        # The first token stays: a classifier may pool it.
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        ids = np.concatenate([ids[:1], ids[len(ids) - model.limit + 1 :]])
    return codec.pooled_row(ids, 0)
