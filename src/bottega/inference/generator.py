"""Prompts in, continuations out: batched, each prompt computed once however many continuations it has.

What is drawn depends on the seed, the prompt and the number of the continuation alone: a prompt continues in a batch
as it does by itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from bottega.batch import Example, Row
from bottega.errors import Diverged
from bottega.inference.cuda_graph import Recorded
from bottega.inference.samplers import NONE, draw, filtered, likeliest
from bottega.inference.token_constraints import Rules, heeded
from bottega.models.attention import CACHE_KEYWORDS, make_layout
from bottega.models.attention.kv_cache import DecodeLayout, PrefillLayout
from bottega.models.attention.mask import AttentionLayout, pad_tree
from bottega.models.row_state import RowState
from bottega.models.scorer import first_position_id
from bottega.packing import pack
from bottega.progress import ProgressCallback
from bottega.sampling import Sampling
from bottega.seeding import derive
from bottega.tokenization.detokenize import StopStrings, TextStream

# Most tokens in the cache at once; further prompts wait.
BATCH_TOKENS = 1 << 16

# Tokens of the prompt that the text of a continuation is read after: some write a space by what stands before.
CONTEXT = 8

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
    packed  the model computes many rows in one flat sequence, so keys and values can be kept; else every step computes
            the whole row, unless it has an encoder
    config  the generation config that is heeded; None where what is written is to be the model's own
    afresh  makes the network forget the rows before: that of its scorer, where it has one; None as it is now
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        ends: frozenset[int],
        *,
        packed: bool,
        config: GenerationConfig | None = None,
        afresh: Callable[[], None] | None = None,
    ) -> None:
        self.network, self.tokenizer, self.ends, self.packed = network, tokenizer, ends, packed
        self.config, self.afresh = config, afresh or RowState(network).restore

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        settings: Sampling,
        *,
        continuations: int = 1,
        far: ProgressCallback | None = None,
    ) -> list[list[Continuation]]:
        """`continuations` of each prompt."""
        settings = heeded(settings, self.config)
        found, done = [Continuation() for _ in range(len(prompts) * continuations)], 0
        for piece in self._pieces(prompts, settings, continuations, told=bool(settings.stop)):
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
    ) -> Iterator[TextPiece]:
        """Every token as it is drawn; continuation c of prompt p has index `p * continuations + c`."""
        return self._pieces(prompts, heeded(settings, self.config), continuations, told=True)

    def _pieces(
        self, prompts: Sequence[Sequence[int]], settings: Sampling, continuations: int, *, told: bool
    ) -> Iterator[TextPiece]:
        """The same; unless `told`, the text comes with the last of them, which takes less time."""
        rows = self._rows(prompts, settings, continuations, told)
        with torch.inference_mode(), self._attending():
            for group in self._groups(rows, settings.tokens):
                yield from self._decode(group, settings)

    def _rows(self, prompts: Sequence[Sequence[int]], settings: Sampling, continuations: int, told: bool) -> list[_Row]:
        """A row for each continuation; equal prompts count on, so that they differ."""
        count: Counter[tuple[int, ...]] = Counter()
        rows: list[_Row] = []
        for prompt in map(tuple, prompts):
            if not prompt:
                raise ValueError("an empty prompt: give at least the token that begins a text")
            for _ in range(continuations):
                chances = _chances(settings.seed, prompt, count[prompt])
                rows.append(_Row(len(rows), prompt, chances, self, settings, told))
                count[prompt] += 1
        return rows

    def rules(self, prompt: Sequence[int], settings: Sampling) -> Rules | None:
        """What the generation config asks of a continuation; None where it asks nothing."""
        if self.config is None:
            return None
        read = prompt if self.network.config.is_encoder_decoder else None
        return Rules(self.config, settings, self.ends, self._begun(prompt), read, self.network.device) or None

    def _begun(self, prompt: Sequence[int]) -> Sequence[int]:
        """The tokens that a continuation stands behind: its prompt, or what a decoder begins with."""
        config = self.network.config
        return [config.decoder_start_token_id] if config.is_encoder_decoder else prompt

    def _groups(self, rows: Sequence[_Row], tokens: int) -> Iterator[list[_Row]]:
        """Rows that are computed together, equal prompts side by side."""
        if not self.packed and not self.network.config.is_encoder_decoder:
            yield from ([row] for row in rows)
            return
        group, prompts = list[_Row](), 0
        for row in sorted(rows, key=lambda row: (len(row.prompt), row.prompt)):
            prompts += not group or group[-1].prompt != row.prompt
            if group and prompts * len(row.prompt) + tokens * (len(group) + 1) > BATCH_TOKENS:
                yield group
                group, prompts = [], 1
            group.append(row)
        if group:
            yield group

    def _decode(self, rows: list[_Row], settings: Sampling) -> Iterator[TextPiece]:
        """Step by step; rows that have ended leave the batch."""
        state = self._state(rows)
        logits = state.start()
        ruled = any(row.rules for row in rows)
        seen = (
            _seen([self._begun(row.prompt) for row in rows], logits)
            if settings.repetition_penalty != 1.0 and not ruled
            else None
        )
        while rows:
            chance = torch.tensor([next(row.chances) for row in rows], dtype=torch.float64, device=logits.device)
            logits = _ruled(rows, logits)
            ready = filtered(logits, seen, settings)
            drawn = draw(ready, chance) if settings.temperature else likeliest(ready)
            tokens = drawn.tolist()
            if NONE in tokens:
                raise Diverged(
                    "the scores of the next token are no numbers",
                    where="what the model writes",
                    fix="if it is being trained, lower optim.lr; else its weights are damaged, or dtype is too narrow",
                )
            for row, token in zip(rows, tokens, strict=True):
                yield row.add(token)
            kept = [place for place, row in enumerate(rows) if row.reason is None]
            if not kept:
                return
            if seen is not None:
                seen = seen.scatter(1, drawn[:, None], True)[kept]
            rows = [rows[place] for place in kept]
            logits = state.step(drawn[kept], kept)

    def _state(self, rows: list[_Row]) -> _Packed | _Sourced | _Whole:
        """What computes the next logits of each row."""
        if self.network.config.is_encoder_decoder:
            return _Sourced(self.network, rows, self.afresh)
        return _Packed(self.network, rows) if self.packed else _Whole(self.network, rows[0], self.afresh)

    @contextmanager
    def _attending(self) -> Iterator[None]:
        """The model in evaluation mode; as transformers runs it, unless it is packed."""
        before, training = self.network.config._attn_implementation, self.network.training
        alone = not self.packed or self.network.config.is_encoder_decoder
        if alone:  # Gemma-2's softcap is in none but the eager one
            self.network.set_attn_implementation("sdpa" if self.network._supports_sdpa else "eager")
        self.network.eval()
        try:
            yield
        finally:
            if alone:
                self.network.set_attn_implementation(before)
            self.network.train(training)


class _Row:
    """One continuation on its way: tokens to text, and whether it has ended.

    told  the text is wanted as it comes, or must be looked at for stop strings
    """

    def __init__(
        self,
        index: int,
        prompt: tuple[int, ...],
        chances: Iterator[float],
        writer: Writer,
        settings: Sampling,
        told: bool,
    ) -> None:
        self.index, self.prompt, self.chances, self.told = index, prompt, chances, told
        self.ends, self.left = writer.ends, settings.tokens
        self.reason: Reason | None = None
        self.rules = writer.rules(prompt, settings)
        self._text, self._stops = TextStream(writer.tokenizer, after=prompt[-CONTEXT:]), StopStrings(settings.stop)

    def add(self, token: int) -> TextPiece:
        self.left -= 1
        if self.rules:
            self.rules.add(token)
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
        """What the token adds to the text that can be shown."""
        if self.told:
            return self._stops.push(self._text.push(token))
        self._text.hold(token)
        return ""


class _Packed:
    """Rows as tokens of one flat sequence, with the keys and values of what was computed before.

    Rows that have ended are computed on until they are a quarter of all: to leave them out moves the memory of all.
    """

    def __init__(self, network: Any, rows: Sequence[_Row]) -> None:
        self.network, self.rows = network, rows
        self.first = first_position_id(network)

    def start(self) -> Tensor:
        """[B, V] logits after each row's prompt; rows with one prompt share its computation."""
        prompts = list(dict.fromkeys(row.prompt for row in self.rows))
        number = {prompt: place for place, prompt in enumerate(prompts)}
        places = [number[row.prompt] for row in self.rows]
        batch = pack([_asked(prompt) for prompt in prompts]).to(str(self.network.device))
        whole = pad_tree(batch)
        kept = PrefillLayout(make_layout(whole))
        logits = self._forward(whole.tokens, whole.position, kept, batch.at)
        self.layout = DecodeLayout(batch, kept, places)
        self.live = list(range(len(places)))
        self.tokens = batch.tokens.new_zeros(len(places))
        self.next, self.moved = Recorded(self._next, self.network, device=self.network.device), 0
        return logits[torch.tensor(places, device=logits.device)]

    def step(self, drawn: Tensor, kept: Sequence[int]) -> Tensor:
        """[B, V] logits after the tokens drawn for the rows that are kept."""
        self.live = [self.live[place] for place in kept]
        if 4 * len(self.live) <= 3 * len(self.tokens):
            self.layout.keep_rows(self.live)
            self.live = list(range(len(self.live)))
            self.tokens = self.tokens.new_zeros(len(self.live))
            self.moved += 1
        all_live = len(self.live) == len(self.tokens)
        places = None if all_live else torch.tensor(self.live, device=drawn.device)
        self.tokens.copy_(drawn) if places is None else self.tokens.index_copy_(0, places, drawn)
        self.layout.begin_token()
        logits = self.next((self.layout.visible_length, self.layout.capacity, self.moved))
        return logits if places is None else logits[places]

    def _next(self) -> Tensor:
        """[B, V] logits after the newest tokens."""
        self.layout.begin_forward()
        return self._forward(self.tokens, self.layout.position, self.layout, 0)

    def _forward(self, tokens: Tensor, position: Tensor, layout: AttentionLayout, read: Tensor | int) -> Tensor:
        out = self.network(
            input_ids=tokens[None],
            position_ids=(position + self.first)[None],
            layout=layout,
            use_cache=False,
            logits_to_keep=read,
        )
        logits: Tensor = out.logits[0]
        return logits


def _asked(prompt: tuple[int, ...]) -> Example:
    """A prompt, read at its last token."""
    ids, at = np.array(prompt, np.int64), np.array([len(prompt) - 1])
    return Example("", (Row(ids, at, np.zeros(1, np.int64), np.ones(1, np.float32)),))


class _Sourced:
    """Rows of an encoder–decoder: prompts are read once, padded on their right, and answers begin with its token."""

    def __init__(self, network: Any, rows: Sequence[_Row], afresh: Callable[[], None]) -> None:
        self.network, self.rows, self.afresh = network, rows, afresh
        taken = signature(network.forward).parameters
        self.kept = next(name for name in CACHE_KEYWORDS if name in taken)

    def start(self) -> Tensor:
        prompts = list(dict.fromkeys(row.prompt for row in self.rows))
        device = self.network.device
        ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for place, prompt in enumerate(prompts):
            ids[place, : len(prompt)] = torch.tensor(prompt, device=device)
            mask[place, : len(prompt)] = 1
        self.afresh()
        read = self.network.get_encoder()(input_ids=ids, attention_mask=mask)
        number = {prompt: place for place, prompt in enumerate(prompts)}
        places = torch.tensor([number[row.prompt] for row in self.rows], device=device)
        self.form, self.cache = type(read), None
        self.states, self.mask = read.last_hidden_state[places], mask[places]
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
            encoder_outputs=self.form(last_hidden_state=self.states),
            attention_mask=self.mask,
            decoder_input_ids=ids,
            use_cache=True,
            **{self.kept: self.cache},
        )
        self.cache = getattr(out, self.kept)
        logits: Tensor = out.logits[:, -1]
        return logits


class _Whole:
    """One row, computed whole at every step, as if it were the first: no cache of these models keeps rows apart."""

    def __init__(self, network: Any, row: _Row, afresh: Callable[[], None]) -> None:
        self.network, self.afresh = network, afresh
        self.ids = torch.tensor([row.prompt], device=network.device)

    def start(self) -> Tensor:
        self.afresh()
        logits: Tensor = self.network(input_ids=self.ids, use_cache=False).logits[:, -1]
        return logits

    def step(self, drawn: Tensor, kept: Sequence[int]) -> Tensor:
        self.ids = torch.cat([self.ids, drawn[:, None]], 1)
        return self.start()


def _ruled(rows: Sequence[_Row], logits: Tensor) -> Tensor:
    """[B, V] logits with what their rules leave of them."""
    if not any(row.rules for row in rows):
        return logits
    parts = zip(rows, torch.split(logits, 1), strict=True)
    return torch.cat([one if row.rules is None else row.rules.applied(one) for row, one in parts])


def _seen(begun: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    """[B, V] which tokens stand in what each row goes on after."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for place, tokens in enumerate(begun):
        seen[place, list(tokens)] = True
    return seen


def _chances(seed: int, prompt: tuple[int, ...], number: int) -> Iterator[float]:
    """Numbers from 0 to 1 for continuation `number` of a prompt, without end."""
    named = int.from_bytes(hashlib.sha256(np.array(prompt, np.int64).tobytes()).digest()[:8])
    generator = np.random.default_rng(derive(seed, "sample", named, number))
    while True:
        yield from generator.random(64).tolist()
