"""Batched generation: prefill once per distinct prompt, then decode all continuations together.

The sampled tokens depend on the seed, the prompt and the number of the continuation only: a prompt continues in a batch
as it does alone.

Legend: B continuations being decoded, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from bottega.errors import Diverged
from bottega.inference.decoding import choose_decoding
from bottega.inference.row import GeneratedRow, Reason, TextPiece, uniform_numbers
from bottega.inference.samplers import NO_TOKEN, filter_logits, greedy_tokens, sample_tokens
from bottega.inference.token_constraints import Constraint, TokenConstraints, with_checkpoint_settings
from bottega.models.row_state import RowState
from bottega.progress import ProgressCallback
from bottega.sampling import Sampling

# Most tokens in the KV cache at once; further prompts wait for the next group.
MAX_CACHED_TOKENS = 1 << 16


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
    prefix           returns token ids to compute before every prompt, of which nothing else is to know
    mark             a prompt → the ids that the network gets for it; those of new tokens differ as the last one does
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
        prefix: Callable[[], tuple[int, ...]] = tuple,
        mark: Callable[[tuple[int, ...]], tuple[int, ...]] = tuple,
    ) -> None:
        self.network, self.tokenizer, self.ends = network, tokenizer, ends
        self.decoding = choose_decoding(network, packed=packed)
        self.config, self.reset_row_state = config, reset_row_state or RowState(network).restore
        self.prefix, self.mark = prefix, mark

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
    ) -> list[GeneratedRow]:
        """A row for each continuation. Equal prompts share one count, so that their continuations differ."""
        count: Counter[tuple[int, ...]] = Counter()
        rows: list[GeneratedRow] = []
        for prompt in map(tuple, prompts):
            if not prompt:
                raise ValueError("an empty prompt: give at least the token that begins a text")
            for _ in range(continuations):
                rows.append(self.new_row(len(rows), prompt, settings, count[prompt], streamed=streamed))
                count[prompt] += 1
        return rows

    def new_row(
        self,
        index: int,
        prompt: tuple[int, ...],
        settings: Sampling,
        number: int,
        *,
        streamed: bool,
        grammar: Constraint | None = None,
        penalized: bool = False,
    ) -> GeneratedRow:
        """Continuation `number` of a prompt, before its first token; see `GeneratedRow`.

        grammar    what its text must be, beside the constraints of the generation config
        penalized  its constraints apply the repetition penalty, which is otherwise computed for a whole batch
        """
        constraints = self._constraints(prompt, settings, grammar)
        return GeneratedRow(
            index,
            prompt,
            settings,
            tokenizer=self.tokenizer,
            ends=self.ends,
            uniform=uniform_numbers(settings.seed, prompt, number),
            constraints=constraints if constraints or (penalized and constraints.processors) else None,
            streamed=streamed,
        )

    def _constraints(self, prompt: Sequence[int], settings: Sampling, grammar: Constraint | None) -> TokenConstraints:
        """What changes the logits of a continuation, beside the settings of a whole batch."""
        # Without a config the model's own distribution is wanted.
        config = GenerationConfig() if self.config is None else self.config
        source = prompt if self.network.config.is_encoder_decoder else None
        start = self._start_tokens(prompt)
        return TokenConstraints(config, settings, self.ends, start, source, self.network.device, grammar)

    def _start_tokens(self, prompt: Sequence[int]) -> Sequence[int]:
        """The tokens before a continuation: its prompt, or the start token of a decoder with an encoder."""
        config = self.network.config
        return [config.decoder_start_token_id] if config.is_encoder_decoder else prompt

    def _groups(self, rows: Sequence[GeneratedRow], tokens: int) -> Iterator[list[GeneratedRow]]:
        """Split the rows into batches that fit the KV cache, equal prompts side by side."""
        if not self.decoding.many:
            yield from ([row] for row in rows)
            return
        group, prompts = list[GeneratedRow](), 0
        for row in sorted(rows, key=lambda row: (len(row.prompt), row.prompt)):
            prompts += not group or group[-1].prompt != row.prompt
            if group and prompts * len(row.prompt) + tokens * (len(group) + 1) > MAX_CACHED_TOKENS:
                yield group
                group, prompts = [], 1
            group.append(row)
        if group:
            yield group

    def _decode(self, rows: list[GeneratedRow], settings: Sampling) -> Iterator[TextPiece]:
        """Decode token by token; rows that have ended leave the batch."""
        before = self.prefix()
        prompts = [(*before, *self.mark(row.prompt)) for row in rows]
        marks = torch.tensor([ids[-1] - row.prompt[-1] for ids, row in zip(prompts, rows, strict=True)])
        decoding = self.decoding(self.network, prompts, self.reset_row_state)
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
            rows, marks = [rows[index] for index in kept], marks[kept]
            logits = decoding.step(next_tokens[kept] + marks.to(next_tokens.device), kept)

    @contextmanager
    def _in_evaluation_mode(self) -> Iterator[None]:
        training = self.network.training
        self.network.eval()
        try:
            yield
        finally:
            self.network.train(training)


def _apply_constraints(rows: Sequence[GeneratedRow], logits: Tensor) -> Tensor:
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
