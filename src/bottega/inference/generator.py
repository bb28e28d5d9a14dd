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
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from bottega.batch import Example, Row
from bottega.errors import Diverged
from bottega.inference.cuda_graph import CapturedStep
from bottega.inference.samplers import NO_TOKEN, filter_logits, greedy_tokens, sample_tokens
from bottega.inference.token_constraints import TokenConstraints, with_checkpoint_settings
from bottega.models.attention import CACHE_KEYWORDS, make_layout
from bottega.models.attention.kv_cache import DecodeLayout, PrefillLayout
from bottega.models.attention.mask import AttentionLayout
from bottega.models.row_state import RowState
from bottega.models.scorer import first_position_id
from bottega.packing import pack, pad_tree
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
        self.network, self.tokenizer, self.ends, self.packed = network, tokenizer, ends, packed
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
        with torch.inference_mode(), self._attending():
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
        if not self.packed and not self.network.config.is_encoder_decoder:
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
        state = self._state(rows)
        logits = state.start()
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
            logits = state.step(next_tokens[kept], kept)

    def _state(self, rows: list[_Row]) -> _PackedDecoding | _EncoderDecoderDecoding | _UncachedDecoding:
        """The way to compute the next logits that the model allows."""
        if self.network.config.is_encoder_decoder:
            return _EncoderDecoderDecoding(self.network, rows, self.reset_row_state)
        return (
            _PackedDecoding(self.network, rows)
            if self.packed
            else _UncachedDecoding(self.network, rows[0], self.reset_row_state)
        )

    @contextmanager
    def _attending(self) -> Iterator[None]:
        """Inside, the model is in evaluation mode, with transformers' own attention unless it is packed."""
        before, training = self.network.config._attn_implementation, self.network.training
        alone = not self.packed or self.network.config.is_encoder_decoder
        if alone:
            # Some attention, such as Gemma-2's with a softcap, exists only as the eager implementation.
            self.network.set_attn_implementation("sdpa" if self.network._supports_sdpa else "eager")
        self.network.eval()
        try:
            yield
        finally:
            if alone:
                self.network.set_attn_implementation(before)
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


class _PackedDecoding:
    """Decoding of packed rows with a KV cache: one new token of each row per forward.

    Rows that have ended are computed along until they are a quarter of all: removing them copies the whole cache.
    """

    def __init__(self, network: Any, rows: Sequence[_Row]) -> None:
        self.network, self.rows = network, rows
        self.first = first_position_id(network)

    def start(self) -> Tensor:
        """[B, V] logits after each row's prompt (prefill); rows with the same prompt share its computation."""
        prompts = list(dict.fromkeys(row.prompt for row in self.rows))
        number = {prompt: index for index, prompt in enumerate(prompts)}
        indices = [number[row.prompt] for row in self.rows]
        batch = pack([_prompt_example(prompt) for prompt in prompts]).to(str(self.network.device))
        whole = pad_tree(batch)
        kept = PrefillLayout(make_layout(whole))
        logits = self._forward(whole.tokens, whole.position, kept, batch.at)
        self.layout = DecodeLayout(batch, kept, indices)
        self.live = list(range(len(indices)))
        self.tokens = batch.tokens.new_zeros(len(indices))
        self.next, self.moved = CapturedStep(self._next, self.network, device=self.network.device), 0
        return logits[torch.tensor(indices, device=logits.device)]

    def step(self, next_tokens: Tensor, kept: Sequence[int]) -> Tensor:
        """[B, V] logits after the next tokens [B] of the rows that go on; `kept`: their indices in the last step."""
        self.live = [self.live[index] for index in kept]
        if 4 * len(self.live) <= 3 * len(self.tokens):
            self.layout.keep_rows(self.live)
            self.live = list(range(len(self.live)))
            self.tokens = self.tokens.new_zeros(len(self.live))
            self.moved += 1
        all_live = len(self.live) == len(self.tokens)
        indices = None if all_live else torch.tensor(self.live, device=next_tokens.device)
        self.tokens.copy_(next_tokens) if indices is None else self.tokens.index_copy_(0, indices, next_tokens)
        self.layout.begin_token()
        logits = self.next((self.layout.visible_length, self.layout.capacity, self.moved))
        return logits if indices is None else logits[indices]

    def _next(self) -> Tensor:
        """[B, V] logits after `self.tokens`; its kernels are captured in a CUDA graph."""
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


def _prompt_example(prompt: tuple[int, ...]) -> Example:
    """The prompt as an example whose hidden state is read at the last token."""
    ids, at = np.array(prompt, np.int64), np.array([len(prompt) - 1])
    return Example("", (Row(ids, at, np.zeros(1, np.int64), np.ones(1, np.float32)),))


class _EncoderDecoderDecoding:
    """Decoding with an encoder–decoder: prompts are encoded once, right-padded; the decoder has a KV cache."""

    def __init__(self, network: Any, rows: Sequence[_Row], reset_row_state: Callable[[], None]) -> None:
        self.network, self.rows, self.reset_row_state = network, rows, reset_row_state
        taken = signature(network.forward).parameters
        self.kept = next(name for name in CACHE_KEYWORDS if name in taken)

    def start(self) -> Tensor:
        prompts = list(dict.fromkeys(row.prompt for row in self.rows))
        device = self.network.device
        ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for index, prompt in enumerate(prompts):
            ids[index, : len(prompt)] = torch.tensor(prompt, device=device)
            mask[index, : len(prompt)] = 1
        self.reset_row_state()
        read = self.network.get_encoder()(input_ids=ids, attention_mask=mask)
        number = {prompt: index for index, prompt in enumerate(prompts)}
        indices = torch.tensor([number[row.prompt] for row in self.rows], device=device)
        self.form, self.cache = type(read), None
        self.states, self.mask = read.last_hidden_state[indices], mask[indices]
        begin = self.network.config.decoder_start_token_id
        return self._forward(torch.full((len(indices), 1), begin, device=device))

    def step(self, next_tokens: Tensor, kept: Sequence[int]) -> Tensor:
        if len(kept) < len(self.mask):
            indices = torch.tensor(kept, device=next_tokens.device)
            assert self.cache is not None
            self.cache.batch_select_indices(indices)
            self.states, self.mask = self.states[indices], self.mask[indices]
        return self._forward(next_tokens[:, None])

    def _forward(self, ids: Tensor) -> Tensor:
        """[B, V] logits after the tokens [B, 1]; their keys and values go into the cache."""
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


class _UncachedDecoding:
    """Decoding of one row without a cache: every step computes it whole. Caches of these models mix rows."""

    def __init__(self, network: Any, row: _Row, reset_row_state: Callable[[], None]) -> None:
        self.network, self.reset_row_state = network, reset_row_state
        self.ids = torch.tensor([row.prompt], device=network.device)

    def start(self) -> Tensor:
        self.reset_row_state()
        logits: Tensor = self.network(input_ids=self.ids, use_cache=False).logits[:, -1]
        return logits

    def step(self, next_tokens: Tensor, kept: Sequence[int]) -> Tensor:
        self.ids = torch.cat([self.ids, next_tokens[:, None]], 1)
        return self.start()


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
