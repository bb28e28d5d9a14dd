"""Batched generation: prefill once per distinct prompt, then decode all continuations together.

The sampled tokens depend on the seed, the prompt and the number of the continuation only: a prompt continues in a batch
as it does alone.

Legend: B continuations being decoded, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from bottega.errors import Diverged
from bottega.inference.decoding import choose_decoding
from bottega.inference.samplers import NO_TOKEN, filter_logits, greedy_tokens, sample_tokens
from bottega.inference.token_constraints import TokenConstraints, with_checkpoint_settings
from bottega.models.row_state import RowState
from bottega.progress import ProgressCallback
from bottega.sampling import Sampling
from bottega.seeding import derive
from bottega.tokenization.detokenize import StopStrings, TextStream

# Most tokens in the KV cache at once; further prompts wait for the next group.
MAX_CACHED_TOKENS = 1 << 16

# The last tokens of a prompt, as context for detokenizing: some tokenizers write a space only after a word.
CONTEXT_TOKENS = 8

Reason = Literal["end", "stop", "length"]


@dataclass(frozen=True, slots=True)
class TextPiece:
    """What one step adds to a continuation: a token, the text that can be shown, and why it ends, if it does."""

    index: int
    token: int
    text: str
    reason: Reason | None


@dataclass
class Continuation:
    """A generated continuation of a prompt.

    tokens  all sampled tokens, including the one that ended it
    text    without special tokens, the stop string, and anything after it
    reason  why it ended: an end token, a stop string, or the limit of its length
    """

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    reason: Reason = "length"


class Writer:
    """Generates continuations with a language model.

    ends             token ids that end a continuation
    packed           the model computes many rows in one flat sequence, with a KV cache; otherwise every step computes
                     the whole row again, unless the model has an encoder
    config           the generation config to follow; None to sample from the model's own distribution
    reset_row_state  resets what the network keeps of earlier rows; default: to its state at construction
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        ends: frozenset[int],
        *,
        packed: bool,
        config: GenerationConfig | None = None,
        reset_row_state: Callable[[], None] | None = None,
    ) -> None:
        self.network, self.tokenizer, self.ends = network, tokenizer, ends
        self.decoding = choose_decoding(network, packed=packed)
        self.config, self.reset_row_state = config, reset_row_state or RowState(network).restore

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        settings: Sampling,
        *,
        continuations: int = 1,
        on_progress: ProgressCallback | None = None,
    ) -> list[list[Continuation]]:
        """`continuations` of each prompt."""
        settings = with_checkpoint_settings(settings, self.config)
        found, done = [Continuation() for _ in range(len(prompts) * continuations)], 0
        for piece in self._pieces(prompts, settings, continuations, streamed=bool(settings.stop)):
            written = found[piece.index]
            written.tokens.append(piece.token)
            written.text += piece.text
            written.reason = piece.reason or "length"
            if piece.reason is not None:
                done += 1
                if on_progress is not None:
                    on_progress(done, len(found))
        return [found[start : start + continuations] for start in range(0, len(found), continuations)]

    def stream(
        self, prompts: Sequence[Sequence[int]], settings: Sampling, *, continuations: int = 1
    ) -> Iterator[TextPiece]:
        """Yield every token when it is sampled; continuation c of prompt p has index `p * continuations + c`."""
        return self._pieces(prompts, with_checkpoint_settings(settings, self.config), continuations, streamed=True)

    def _pieces(
        self, prompts: Sequence[Sequence[int]], settings: Sampling, continuations: int, *, streamed: bool
    ) -> Iterator[TextPiece]:
        """As `stream`; unless `streamed`, the text comes with the last token only, which is faster."""
        rows = self._rows(prompts, settings, continuations, streamed)
        with torch.inference_mode(), self._in_evaluation_mode(), self.decoding.set_attention(self.network):
            for group in self._groups(rows, settings.tokens):
                yield from self._decode(group, settings)

    def _rows(
        self, prompts: Sequence[Sequence[int]], settings: Sampling, continuations: int, streamed: bool
    ) -> list[_Row]:
        """A row for each continuation. Equal prompts share one count, so that their continuations differ."""
        count: Counter[tuple[int, ...]] = Counter()
        rows: list[_Row] = []
        for prompt in map(tuple, prompts):
            if not prompt:
                raise ValueError("an empty prompt: give at least the token that begins a text")
            for _ in range(continuations):
                uniform = _uniform_numbers(settings.seed, prompt, count[prompt])
                rows.append(_Row(len(rows), prompt, uniform, self, settings, streamed))
                count[prompt] += 1
        return rows

    def constraints(self, prompt: Sequence[int], settings: Sampling) -> TokenConstraints | None:
        """The constraints of the generation config on a continuation; None if it has none."""
        if self.config is None:
            return None
        source = prompt if self.network.config.is_encoder_decoder else None
        start = self._start_tokens(prompt)
        return TokenConstraints(self.config, settings, self.ends, start, source, self.network.device) or None

    def _start_tokens(self, prompt: Sequence[int]) -> Sequence[int]:
        """The tokens before a continuation: its prompt, or the start token of a decoder with an encoder."""
        config = self.network.config
        return [config.decoder_start_token_id] if config.is_encoder_decoder else prompt

    def _groups(self, rows: Sequence[_Row], tokens: int) -> Iterator[list[_Row]]:
        """Split the rows into batches that fit the KV cache, equal prompts side by side."""
        if not self.decoding.many:
            yield from ([row] for row in rows)
            return
        group, prompts = list[_Row](), 0
        for row in sorted(rows, key=lambda row: (len(row.prompt), row.prompt)):
            prompts += not group or group[-1].prompt != row.prompt
            if group and prompts * len(row.prompt) + tokens * (len(group) + 1) > MAX_CACHED_TOKENS:
                yield group
                group, prompts = [], 1
            group.append(row)
        if group:
            yield group

    def _decode(self, rows: list[_Row], settings: Sampling) -> Iterator[TextPiece]:
        """Decode token by token; rows that have ended leave the batch."""
        decoding = self.decoding(self.network, [row.prompt for row in rows], self.reset_row_state)
        logits = decoding.start()
        constrained = any(row.constraints for row in rows)
        seen = (
            _seen_tokens([self._start_tokens(row.prompt) for row in rows], logits)
            if settings.repetition_penalty != 1.0 and not constrained
            else None
        )
        while rows:
            uniform = torch.tensor([next(row.uniform) for row in rows], dtype=torch.float64, device=logits.device)
            logits = _apply_constraints(rows, logits)
            filtered_logits = filter_logits(logits, seen, settings)
            next_tokens = (
                sample_tokens(filtered_logits, uniform) if settings.temperature else greedy_tokens(filtered_logits)
            )
            tokens = next_tokens.tolist()
            if NO_TOKEN in tokens:
                raise Diverged(
                    "the logits of the next token are not finite",
                    where="generation",
                    fix="if it is being trained, lower optim.lr; else its weights are damaged, or dtype is too narrow",
                )
            for row, token in zip(rows, tokens, strict=True):
                yield row.add(token)
            kept = [index for index, row in enumerate(rows) if row.reason is None]
            if not kept:
                return
            if seen is not None:
                seen = seen.scatter(1, next_tokens[:, None], True)[kept]
            rows = [rows[index] for index in kept]
            logits = decoding.step(next_tokens[kept], kept)

    @contextmanager
    def _in_evaluation_mode(self) -> Iterator[None]:
        training = self.network.training
        self.network.eval()
        try:
            yield
        finally:
            self.network.train(training)


class _Row:
    """A continuation being generated: detokenizes its tokens, and knows when it has ended.

    uniform   random numbers in [0, 1), one for each token
    streamed  the text is needed token by token, for streaming or to find stop strings
    """

    def __init__(
        self,
        index: int,
        prompt: tuple[int, ...],
        uniform: Iterator[float],
        writer: Writer,
        settings: Sampling,
        streamed: bool,
    ) -> None:
        self.index, self.prompt, self.uniform, self.streamed = index, prompt, uniform, streamed
        self.ends, self.left = writer.ends, settings.tokens
        self.reason: Reason | None = None
        self.constraints = writer.constraints(prompt, settings)
        self._text, self._stops = (
            TextStream(writer.tokenizer, after=prompt[-CONTEXT_TOKENS:]),
            StopStrings(settings.stop),
        )

    def add(self, token: int) -> TextPiece:
        self.left -= 1
        if self.constraints:
            self.constraints.add(token)
        ended = token in self.ends
        text = "" if ended else self._add(token)
        if self._stops.met:
            self.reason = "stop"
        elif ended or not self.left:
            text += self._stops.push(self._text.end())
            text += self._stops.end()
            self.reason = "stop" if self._stops.met else "end" if ended else "length"
        return TextPiece(self.index, token, text, self.reason)

    def _add(self, token: int) -> str:
        """The text that the token adds, once it cannot change any more."""
        if self.streamed:
            return self._stops.push(self._text.push(token))
        self._text.hold(token)
        return ""


def _apply_constraints(rows: Sequence[_Row], logits: Tensor) -> Tensor:
    """[B, V] logits after the constraints of each row."""
    if not any(row.constraints for row in rows):
        return logits
    parts = zip(rows, torch.split(logits, 1), strict=True)
    return torch.cat([part if row.constraints is None else row.constraints.apply(part) for row, part in parts])


def _seen_tokens(starts: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    """[B, V] whether a token occurs in the text before each row's continuation."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for index, tokens in enumerate(starts):
        seen[index, list(tokens)] = True
    return seen


def _uniform_numbers(seed: int, prompt: tuple[int, ...], number: int) -> Iterator[float]:
    """An endless stream of uniform random numbers in [0, 1) for continuation `number` of a prompt."""
    named = int.from_bytes(hashlib.sha256(np.array(prompt, np.int64).tobytes()).digest()[:8])
    generator = np.random.default_rng(derive(seed, "sample", named, number))
    while True:
        yield from generator.random(64).tolist()
