"""What a checkpoint's generation config asks of every token it writes: words it never writes, what it begins and ends
with, least lengths, repetitions. Each is transformers' own processor, in transformers' own order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import logits_process as processors

from bottega.sampling import Sampling

# What a generation config says of drawing, which is asked for here and not declared.
DRAWING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")

# Ways of writing that are none here, and the values at which they do nothing.
OTHER_WAYS = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "length_penalty": 1.0,
    "diversity_penalty": 0.0,
    "penalty_alpha": None,
    "guidance_scale": None,
    "watermarking_config": None,
    "token_healing": False,
    "constraints": None,
    "force_words_ids": None,
    "max_time": None,
}


class Rules:
    """Of one continuation: the processors its generation config asks for.

    prompt  the tokens it goes on after: the prompt, or what a decoder begins with
    read    what an encoder reads; None of a model without one
    ends    tokens that end a continuation
    """

    def __init__(
        self,
        config: GenerationConfig,
        settings: Sampling,
        ends: frozenset[int],
        prompt: Sequence[int],
        read: Sequence[int] | None,
        device: torch.device,
    ) -> None:
        self.ids = torch.tensor([list(prompt)], device=device)
        source = None if read is None else torch.tensor([list(read)], device=device)
        self.processors = list(_processors(config, settings, sorted(ends), self.ids, source))

    def __bool__(self) -> bool:
        """Whether there is more than the penalty, which is computed for many rows at once."""
        return any(not isinstance(one, processors.RepetitionPenaltyLogitsProcessor) for one in self.processors)

    def applied(self, logits: Tensor) -> Tensor:
        """[1, V] → [1, V] what is left of the next token's logits, in float32 or wider."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        for processor in self.processors:
            logits = processor(self.ids, logits)
        return logits

    def add(self, token: int) -> None:
        """Hear of the token that was written."""
        self.ids = torch.cat([self.ids, self.ids.new_tensor([[token]])], 1)


def _processors(
    config: GenerationConfig, settings: Sampling, ends: list[int], ids: Tensor, source: Tensor | None
) -> Iterator[Any]:
    begun, device = ids.shape[1], ids.device

    def asked(name: str) -> Any:
        return getattr(config, name, None)

    if asked("sequence_bias") is not None:
        yield processors.SequenceBiasLogitsProcessor(asked("sequence_bias"))
    if source is not None and asked("encoder_repetition_penalty") not in (None, 1.0):
        yield processors.EncoderRepetitionPenaltyLogitsProcessor(asked("encoder_repetition_penalty"), source)
    if settings.repetition_penalty not in (None, 1.0):
        yield processors.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)
    if asked("no_repeat_ngram_size"):
        yield processors.NoRepeatNGramLogitsProcessor(asked("no_repeat_ngram_size"))
    if source is not None and asked("encoder_no_repeat_ngram_size"):
        yield processors.EncoderNoRepeatNGramLogitsProcessor(asked("encoder_no_repeat_ngram_size"), source)
    if asked("bad_words_ids") is not None:
        yield processors.NoBadWordsLogitsProcessor(asked("bad_words_ids"), ends or None)
    if asked("min_length") and ends:
        yield processors.MinLengthLogitsProcessor(asked("min_length"), ends, device=device)
    if asked("min_new_tokens") and ends:
        yield processors.MinNewTokensLengthLogitsProcessor(begun, asked("min_new_tokens"), ends, device=device)
    if asked("forced_bos_token_id") is not None:
        yield processors.ForcedBOSTokenLogitsProcessor(asked("forced_bos_token_id"))
    if asked("forced_eos_token_id") is not None:
        last = begun + settings.tokens
        yield processors.ForcedEOSTokenLogitsProcessor(last, asked("forced_eos_token_id"), device=device)
    if asked("remove_invalid_values"):
        yield processors.InfNanRemoveLogitsProcessor()
    if asked("exponential_decay_length_penalty") is not None and ends:
        decay = tuple(asked("exponential_decay_length_penalty"))
        yield processors.ExponentialDecayLengthPenalty(decay, ends, begun)
    if asked("suppress_tokens") is not None:
        yield processors.SuppressTokensLogitsProcessor(asked("suppress_tokens"), device=device)
    if asked("begin_suppress_tokens") is not None:
        first = begun if begun > 1 or asked("forced_bos_token_id") is None else begun + 1
        yield processors.SuppressTokensAtBeginLogitsProcessor(asked("begin_suppress_tokens"), first, device=device)


def heeded(settings: Sampling, config: GenerationConfig | None) -> Sampling:
    """The settings with what they leave to the checkpoint."""
    declared = None if config is None else config.repetition_penalty
    changes: dict[str, Any] = {}
    if settings.repetition_penalty is None:
        changes["repetition_penalty"] = 1.0 if declared is None else float(declared)
    if config is not None and config.stop_strings:
        texts = [config.stop_strings] if isinstance(config.stop_strings, str) else config.stop_strings
        changes["stop"] = tuple(dict.fromkeys((*settings.stop, *texts)))
    return settings.model_copy(update=changes)


def unheeded(config: GenerationConfig) -> dict[str, Any]:
    """What a generation config says that nothing here does of itself: how to draw, and other ways of writing."""
    found = {name: getattr(config, name, None) for name in OTHER_WAYS}
    others = {name: value for name, value in found.items() if value not in (None, OTHER_WAYS[name])}
    if not config.do_sample:
        return others
    drawn = {name: getattr(config, name, None) for name in DRAWING}
    return {name: value for name, value in drawn.items() if value is not None} | others
