"""The next token: a logit for every token of the vocabulary at each position read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from bottega.batch import Batch
from bottega.errors import ModelError
from bottega.models.config import is_encoder
from bottega.models.heads import Head, ScoreOptions, objectives_of_other_heads
from bottega.models.language_head import get_language_head


class LanguageModelHead(Head):
    """The head of a causal language model, or of an encoder–decoder.

    logits  [N, V]  logits of the vocabulary
    logp    [N]     log-probability of each label
    best    [N]     the likeliest token, without gradient
    states  [N, H]  the hidden states before the head
    """

    outputs: ClassVar[frozenset[str]] = frozenset({"logits", "logp", "best", "states"})
    description: ClassVar[str] = "a language model"
    autoregressive: ClassVar[bool] = True
    over_vocabulary: ClassVar[bool] = True
    reads_everywhere: ClassVar[bool] = True
    may_be_new: ClassVar[bool] = False
    peft_task: ClassVar[str | None] = "CAUSAL_LM"
    command: ClassVar[str] = "bottega chat"
    probe_output: ClassVar[str] = "logp"

    def auto_class(self, config: Any) -> Any:
        return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM

    def check(self, config: Any) -> None:
        if is_encoder(config):
            raise ModelError(
                f"{config.model_type} is an encoder and cannot generate text",
                where="model.base",
                fix=f"train it with {objectives_of_other_heads(self.kind)}",
            )

    def scores(
        self, network: Any, states: Tensor, batch: Batch, wanted: frozenset[str], options: ScoreOptions
    ) -> dict[str, Tensor]:
        count = len(batch.at)
        padding = (0, len(states) - count)  # the scorer rounds up how many states a head over the vocabulary gets
        head = replace(get_language_head(network).with_temperature(options.temperature), smoothing=options.smoothing)
        scores: dict[str, Tensor] = {}
        if "logits" in wanted:
            scores["logits"] = head.logits(states)
        if "best" in wanted:
            scores["logp"], scores["best"] = head.logp_and_best(states, F.pad(batch.label, padding))
        elif "logp" in wanted:
            # If the loss is a weighted mean, the gradient of logp is known up to a factor, and a trained head computes
            # its own while the logits exist.
            expected_gradient = F.pad(batch.weight, padding) if options.weighted else None
            scores["logp"] = head.logp(states, F.pad(batch.label, padding), expected_gradient)
        if "states" in wanted:
            scores["states"] = states
        return {name: score[:count] for name, score in scores.items()}
