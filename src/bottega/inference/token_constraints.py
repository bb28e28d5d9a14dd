"""What changes the logits of one continuation: its checkpoint's generation config, penalties, biases, a grammar.

The constraints of a generation config (forced and suppressed tokens, minimum lengths, repetitions) are transformers'
own logits processors, in transformers' own order. What the settings of the call ask for comes after them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import logits_process as processors

from bottega.sampling import Sampling

# Sampling settings of a generation config. They are not followed: the settings of the call decide.
SAMPLING_SETTINGS = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")

# Settings of a generation config that are not supported, such as beam search, and the values at which they do nothing.
UNSUPPORTED_SETTINGS = {
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

# ([1, T] tokens of the row so far, [1, V] logits) → [1, V] logits; called once for each token.
Constraint = Callable[[Tensor, Tensor], Tensor]


class TokenConstraints:
    """The logits processors of one continuation.

    prompt   the tokens before the continuation: the prompt, or the start token of a decoder with an encoder
    source   the tokens that the encoder reads; None for a model without one
    ends     token ids that end a continuation
    grammar  a constraint that comes last
    """

    def __init__(
        self,
        config: GenerationConfig,
        settings: Sampling,
        ends: frozenset[int],
        prompt: Sequence[int],
        source: Sequence[int] | None,
        device: torch.device,
        grammar: Constraint | None = None,
    ) -> None:
        self.ids = torch.tensor([list(prompt)], device=device)  # [1, T]
        source_ids = None if source is None else torch.tensor([list(source)], device=device)  # [1, S]
        self.processors = list(_processors(config, settings, sorted(ends), self.ids, source_ids))
        self.processors += _of_settings(settings, len(prompt))
        self.processors += [grammar] if grammar is not None else []

    def __bool__(self) -> bool:
        """Whether there is any constraint but the repetition penalty, which is computed for a whole batch at once."""
        return any(not isinstance(item, processors.RepetitionPenaltyLogitsProcessor) for item in self.processors)

    def apply(self, logits: Tensor) -> Tensor:
        """[1, V] logits of the next token → [1, V] the constrained logits, in float32 or wider."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        for processor in self.processors:
            logits = processor(self.ids, logits)
        return logits

    def add(self, token: int) -> None:
        """Append a token to the continuation."""
        self.ids = torch.cat([self.ids, self.ids.new_tensor([[token]])], 1)


def _processors(
    config: GenerationConfig, settings: Sampling, ends: list[int], ids: Tensor, source: Tensor | None
) -> Iterator[Any]:
    """The processors, in the order of transformers' `generate`: they do not commute."""
    prompt_length, device = ids.shape[1], ids.device

    def declared(name: str) -> Any:
        # A config of an older transformers lacks the newer settings.
        return getattr(config, name, None)

    if declared("sequence_bias") is not None:
        yield processors.SequenceBiasLogitsProcessor(declared("sequence_bias"))
    if source is not None and declared("encoder_repetition_penalty") not in (None, 1.0):
        yield processors.EncoderRepetitionPenaltyLogitsProcessor(declared("encoder_repetition_penalty"), source)
    if settings.repetition_penalty not in (None, 1.0):
        yield processors.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)
    if declared("no_repeat_ngram_size"):
        yield processors.NoRepeatNGramLogitsProcessor(declared("no_repeat_ngram_size"))
    if source is not None and declared("encoder_no_repeat_ngram_size"):
        yield processors.EncoderNoRepeatNGramLogitsProcessor(declared("encoder_no_repeat_ngram_size"), source)
    if declared("bad_words_ids") is not None:
        yield processors.NoBadWordsLogitsProcessor(declared("bad_words_ids"), ends or None)
    if declared("min_length") and ends:
        yield processors.MinLengthLogitsProcessor(declared("min_length"), ends, device=device)
    if declared("min_new_tokens") and ends:
        yield processors.MinNewTokensLengthLogitsProcessor(
            prompt_length, declared("min_new_tokens"), ends, device=device
        )
    if declared("forced_bos_token_id") is not None:
        yield processors.ForcedBOSTokenLogitsProcessor(declared("forced_bos_token_id"))
    if declared("forced_eos_token_id") is not None:
        last = prompt_length + settings.tokens
        yield processors.ForcedEOSTokenLogitsProcessor(last, declared("forced_eos_token_id"), device=device)
    if declared("remove_invalid_values"):
        yield processors.InfNanRemoveLogitsProcessor()
    if declared("exponential_decay_length_penalty") is not None and ends:
        decay = tuple(declared("exponential_decay_length_penalty"))
        yield processors.ExponentialDecayLengthPenalty(decay, ends, prompt_length)
    if declared("suppress_tokens") is not None:
        yield processors.SuppressTokensLogitsProcessor(declared("suppress_tokens"), device=device)
    if declared("begin_suppress_tokens") is not None:
        # A forced first token comes before the one that is suppressed, as in transformers.
        first = prompt_length + int(prompt_length == 1 and declared("forced_bos_token_id") is not None)
        yield processors.SuppressTokensAtBeginLogitsProcessor(declared("begin_suppress_tokens"), first, device=device)


def _of_settings(settings: Sampling, prompt_length: int) -> Iterator[Constraint]:
    """The constraints that only the settings of a call ask for."""
    if settings.frequency_penalty or settings.presence_penalty:
        yield _Penalties(settings.frequency_penalty, settings.presence_penalty, prompt_length)
    if settings.logit_bias:
        yield _Bias(settings.logit_bias)


class _Penalties:
    """Lowers the logit of every token by how often the continuation has it, and by whether it has it at all."""

    def __init__(self, frequency: float, presence: float, prompt_length: int) -> None:
        self.frequency, self.presence, self.prompt_length = frequency, presence, prompt_length

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        counts = Counter(ids[0, self.prompt_length :].tolist())
        if not counts:
            return logits
        penalties = [self.frequency * count + self.presence for count in counts.values()]
        index = torch.tensor(list(counts), device=logits.device)
        return logits.index_add(1, index, -logits.new_tensor([penalties]))


class _Bias:
    """Adds a number to the logits of some tokens."""

    def __init__(self, biases: Sequence[tuple[int, float]]) -> None:
        self.tokens, self.values = [token for token, _ in biases], [value for _, value in biases]

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        index = torch.tensor(self.tokens, device=logits.device)
        return logits.index_add(1, index, logits.new_tensor([self.values]))


def with_checkpoint_settings(settings: Sampling, config: GenerationConfig | None) -> Sampling:
    """The settings, with a repetition penalty and stop strings of the checkpoint's generation config added."""
    changes: dict[str, Any] = {}
    if settings.repetition_penalty is None:
        declared = None if config is None else config.repetition_penalty
        changes["repetition_penalty"] = 1.0 if declared is None else float(declared)
    if config is not None and config.stop_strings:
        texts = [config.stop_strings] if isinstance(config.stop_strings, str) else config.stop_strings
        # dict.fromkeys: without repetitions, in order.
        changes["stop"] = tuple(dict.fromkeys((*settings.stop, *texts)))
    return settings.model_copy(update=changes)


def ignored_settings(config: GenerationConfig) -> dict[str, Any]:
    """The settings of a generation config that generation here does not follow: sampling settings, and beam search."""
    unsupported = {name: getattr(config, name, None) for name in UNSUPPORTED_SETTINGS}
    ignored = {name: value for name, value in unsupported.items() if value not in (None, UNSUPPORTED_SETTINGS[name])}
    if not config.do_sample:  # transformers itself does not follow them then
        return ignored
    sampling = {name: getattr(config, name, None) for name in SAMPLING_SETTINGS}
    return {name: value for name, value in sampling.items() if value is not None} | ignored
