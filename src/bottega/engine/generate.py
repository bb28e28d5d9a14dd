"""Prompts in, continuations out: batched, each prompt computed once however many continuations it has.

What is drawn depends on the seed, the prompt and the number of the continuation alone: a prompt continues in a batch
as it does by itself.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bottega.data.stream import StopStrings, TextStream
from bottega.engine.filters import draw, filtered
from bottega.progress import Far
from bottega.randomness import derive
from bottega.sampling import Sampling

BATCH_TOKENS = 1 << 16
"""Most tokens in the cache at once; further prompts wait."""

CONTEXT = 8
"""Tokens of the prompt that the text of a continuation is read after: some write a space by what stands before."""

Reason = Literal["end", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step adds to a continuation: a token, the text that can be shown, and why it ends, if it does."""

    index: int
    token: int
    text: str
    reason: Reason | None


@dataclass
class Continuation:
    """tokens   all that were drawn, the one that ended it included
    text     without special tokens, and without the stop string and what may stand after it
    reason   end (of turn or text), stop (string), or length
    """

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    reason: Reason = "length"


class Writer:
    """A causal language model that continues prompts.

    ends    token ids that end a continuation
    cached  the model keeps keys and values, and knows padding on its left; else every step computes the whole row
    """

    def __init__(self, network: Any, tokenizer: Any, ends: frozenset[int], *, cached: bool = True) -> None:
        self.network, self.tokenizer, self.ends, self.cached = network, tokenizer, ends, cached

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        settings: Sampling,
        *,
        continuations: int = 1,
        far: Far | None = None,
    ) -> list[list[Continuation]]:
        """`continuations` of each prompt."""
        found, done = [Continuation() for _ in range(len(prompts) * continuations)], 0
        for piece in self.stream(prompts, settings, continuations=continuations):
            written = found[piece.index]
            written.tokens.append(piece.token)
            written.text += piece.text
            written.reason = piece.reason or "length"
            if piece.reason is not None:
                done += 1
                if far is not None:
                    far(done, len(found))
        return [found[start : start + continuations] for start in range(0, len(found), continuations)]

    def stream(
        self, prompts: Sequence[Sequence[int]], settings: Sampling, *, continuations: int = 1
    ) -> Iterator[Piece]:
        """Every token as it is drawn; continuation c of prompt p has index `p * continuations + c`."""
        rows = self._rows(prompts, settings, continuations)
        with torch.inference_mode(), self._attending():
            for group in self._groups(rows, settings.tokens):
                yield from self._decode(group, settings)

    def _rows(self, prompts: Sequence[Sequence[int]], settings: Sampling, continuations: int) -> list[_Row]:
        """A row for each continuation; equal prompts count on, so that they differ."""
        count: Counter[tuple[int, ...]] = Counter()
        rows: list[_Row] = []
        for prompt in map(tuple, prompts):
            if not prompt:
                raise ValueError("an empty prompt: give at least the token that begins a text")
            for _ in range(continuations):
                rows.append(_Row(len(rows), prompt, _chances(settings.seed, prompt, count[prompt]), self, settings))
                count[prompt] += 1
        return rows

    def _groups(self, rows: Sequence[_Row], tokens: int) -> Iterator[list[_Row]]:
        """Rows that are computed together, equal prompts side by side."""
        if not self.cached:
            yield from ([row] for row in rows)
            return
        group: list[_Row] = []
        longest = 0
        for row in sorted(rows, key=lambda row: (len(row.prompt), row.prompt)):
            longest = max(longest, len(row.prompt) + tokens)
            if group and longest * (len(group) + 1) > BATCH_TOKENS:
                yield group
                group, longest = [], len(row.prompt) + tokens
            group.append(row)
        if group:
            yield group

    def _decode(self, rows: list[_Row], settings: Sampling) -> Iterator[Piece]:
        """Step by step; rows that have ended leave the batch."""
        state = self._state(rows)
        logits = state.start()
        seen = _seen(rows, logits) if settings.repetition_penalty != 1.0 else None
        while rows:
            chance = torch.tensor([next(row.chances) for row in rows], dtype=torch.float64, device=logits.device)
            ready = filtered(logits, seen, settings)
            drawn = draw(ready, chance) if settings.temperature else ready.argmax(-1)
            for row, token in zip(rows, drawn.tolist(), strict=True):
                yield row.add(token)
            kept = [place for place, row in enumerate(rows) if row.reason is None]
            if not kept:
                return
            if seen is not None:
                seen = seen.scatter(1, drawn[:, None], True)[kept]
            rows = [rows[place] for place in kept]
            logits = state.step(drawn[kept], kept)

    def _state(self, rows: list[_Row]) -> _Cached | _Sourced | _Whole:
        """What computes the next logits of each row."""
        if self.network.config.is_encoder_decoder:
            return _Sourced(self.network, rows)
        return _Cached(self.network, rows) if self.cached else _Whole(self.network, rows[0])

    @contextmanager
    def _attending(self) -> Iterator[None]:
        """The model as transformers runs it, in evaluation mode."""
        before, training = self.network.config._attn_implementation, self.network.training
        # The packed attention keeps no keys and values; Gemma-2's softcap is in none but the eager one.
        self.network.set_attn_implementation("sdpa" if self.network._supports_sdpa else "eager")
        self.network.eval()
        try:
            yield
        finally:
            self.network.set_attn_implementation(before)
            self.network.train(training)


class _Row:
    """One continuation on its way: tokens to text, and whether it has ended."""

    def __init__(
        self, index: int, prompt: tuple[int, ...], chances: Iterator[float], writer: Writer, settings: Sampling
    ) -> None:
        self.index, self.prompt, self.chances = index, prompt, chances
        self.ends, self.left = writer.ends, settings.tokens
        self.reason: Reason | None = None
        self._text, self._stops = TextStream(writer.tokenizer, after=prompt[-CONTEXT:]), StopStrings(settings.stop)

    def add(self, token: int) -> Piece:
        self.left -= 1
        ended = token in self.ends
        text = self._stops.push("" if ended else self._text.push(token))
        if self._stops.met:
            self.reason = "stop"
        elif ended or not self.left:
            text += self._stops.push(self._text.end())
            text += self._stops.end()
            self.reason = "stop" if self._stops.met else "end" if ended else "length"
        return Piece(self.index, token, text, self.reason)


class _Cached:
    """Rows in one batch, padded on the left, with the keys and values of what was computed before."""

    def __init__(self, network: Any, rows: Sequence[_Row]) -> None:
        self.network, self.rows = network, rows
        self.takes_positions = "position_ids" in inspect.signature(network.forward).parameters

    def start(self) -> Tensor:
        """[B, V] logits after each row's prompt; rows with one prompt share its computation."""
        prompts = list(dict.fromkeys(row.prompt for row in self.rows))
        longest, device = max(map(len, prompts)), self.network.device
        ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
        self.mask = torch.zeros_like(ids)
        for place, prompt in enumerate(prompts):
            ids[place, longest - len(prompt) :] = torch.tensor(prompt, device=device)
            self.mask[place, longest - len(prompt) :] = 1
        out = self._forward(ids, (self.mask.cumsum(1) - 1).clamp(min=0), None)
        self.cache = out.past_key_values
        number = {prompt: place for place, prompt in enumerate(prompts)}
        places = torch.tensor([number[row.prompt] for row in self.rows], device=device)
        if len(places) > len(prompts):
            self.cache.batch_select_indices(places)
        self.mask = self.mask[places]
        logits: Tensor = out.logits[:, -1]
        return logits[places]

    def step(self, drawn: Tensor, kept: Sequence[int]) -> Tensor:
        """[B, V] logits after the tokens drawn for the rows that are kept."""
        if len(kept) < len(self.mask):
            places = torch.tensor(kept, device=drawn.device)
            self.cache.batch_select_indices(places)
            self.mask = self.mask[places]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        out = self._forward(drawn[:, None], self.mask.sum(1, keepdim=True) - 1, self.cache)
        logits: Tensor = out.logits[:, -1]
        return logits

    def _forward(self, ids: Tensor, position: Tensor, cache: Any) -> Any:
        positions = {"position_ids": position} if self.takes_positions else {}
        mask = self.mask
        return self.network(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1, **positions
        )


class _Sourced:
    """Rows of an encoder–decoder: prompts are read once, padded on their right, and answers begin with its token."""

    def __init__(self, network: Any, rows: Sequence[_Row]) -> None:
        self.network, self.rows = network, rows

    def start(self) -> Tensor:
        prompts = list(dict.fromkeys(row.prompt for row in self.rows))
        device = self.network.device
        ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for place, prompt in enumerate(prompts):
            ids[place, : len(prompt)] = torch.tensor(prompt, device=device)
            mask[place, : len(prompt)] = 1
        states = self.network.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        number = {prompt: place for place, prompt in enumerate(prompts)}
        places = torch.tensor([number[row.prompt] for row in self.rows], device=device)
        self.states, self.mask, self.cache = states[places], mask[places], None
        begin = self.network.config.decoder_start_token_id
        return self._forward(torch.full((len(places), 1), begin, device=device))

    def step(self, drawn: Tensor, kept: Sequence[int]) -> Tensor:
        if len(kept) < len(self.mask):
            places = torch.tensor(kept, device=drawn.device)
            assert self.cache is not None
            self.cache.batch_select_indices(places)
            self.states, self.mask = self.states[places], self.mask[places]
        return self._forward(drawn[:, None])

    def _forward(self, ids: Tensor) -> Tensor:
        """[B, V] logits behind the tokens; keys and values are kept."""
        out = self.network(
            encoder_outputs=(self.states,),
            attention_mask=self.mask,
            decoder_input_ids=ids,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = out.past_key_values
        logits: Tensor = out.logits[:, -1]
        return logits


class _Whole:
    """One row, computed whole at every step: for models without a cache that keeps rows apart."""

    def __init__(self, network: Any, row: _Row) -> None:
        self.network, self.ids = network, torch.tensor([row.prompt], device=network.device)

    def start(self) -> Tensor:
        logits: Tensor = self.network(input_ids=self.ids, use_cache=False).logits[:, -1]
        return logits

    def step(self, drawn: Tensor, kept: Sequence[int]) -> Tensor:
        self.ids = torch.cat([self.ids, drawn[:, None]], 1)
        return self.start()


def _seen(rows: Sequence[_Row], logits: Tensor) -> Tensor:
    """[B, V] which tokens stand in each prompt."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for place, row in enumerate(rows):
        seen[place, list(row.prompt)] = True
    return seen


def _chances(seed: int, prompt: tuple[int, ...], number: int) -> Iterator[float]:
    """Numbers from 0 to 1 for continuation `number` of a prompt, without end."""
    named = int.from_bytes(hashlib.sha256(np.array(prompt, np.int64).tobytes()).digest()[:8])
    generator = np.random.default_rng(derive(seed, "sample", named, number))
    while True:
        yield from generator.random(64).tolist()
