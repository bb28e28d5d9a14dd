"""Continuous batching: rows join and leave while others are decoded, in one forward with the prompts that are read.

A prompt is read some tokens at a time, so that long ones do not hold up rows that are decoded. What it has in common
with a text in the prefix cache is not computed again; rows that begin with the same long text share its keys and values
while they are decoded.

The adapter that computes a token is part of its id here (`RowAdapters.mark`), so what is shared was computed alike.

Legend: B decoded rows, V vocabulary, T tokens of a forward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bottega.batch import Ints
from bottega.inference.prefix_cache import PrefixCache
from bottega.inference.row_decoder import DecodedRow, DecoderStep, RowDecoder
from bottega.models.attention.cached_text import CacheForm, concatenate
from bottega.models.attention.native_step import make_step_layout
from bottega.models.attention.row_cache import CachedRow, Prefix, PromptReading, RowCache
from bottega.models.row_adapters import RowAdapters
from bottega.models.scorer import first_position_id
from bottega.packing import common_prefix_length

# Tokens of prompts in one forward: with rows that are decoded, which wait for it, and without.
CHUNK_TOKENS, IDLE_CHUNK_TOKENS = 256, 2048

# A prompt waits for another that is being read if it will have so many tokens more in common with it.
MIN_AWAITED = 16

# The shortest beginning that rows share while they are decoded: a prefix costs a few kernel calls in every layer.
MIN_PREFIX = 64

# Most tokens in memory, of rows and of the prefix cache.
MAX_TOKENS = 1 << 16


@dataclass(eq=False)
class _ReadRow:
    """A row whose prompt is read, with its marked ids; `reading` is None until it begins."""

    row: DecodedRow
    tokens: Ints
    reading: PromptReading | None = None

    @property
    def left(self) -> int:
        return 0 if self.reading is None else self.reading.length - self.reading.done


class ContinuousDecoder(RowDecoder):
    """Decodes the rows of a network that computes packed rows.

    adapters    those that rows may name
    max_rows    most rows at once
    max_tokens  most tokens whose keys and values are in memory; one row alone may have more
    """

    def __init__(
        self,
        network: Any,
        adapters: RowAdapters | None = None,
        *,
        max_rows: int = 64,
        max_tokens: int = MAX_TOKENS,
        chunk: int = CHUNK_TOKENS,
    ) -> None:
        self.network, self.adapters = network.eval(), adapters
        self.max_rows, self.max_tokens, self.chunk = max_rows, max_tokens, chunk
        self.first = first_position_id(network)
        self.prefixes = PrefixCache()
        self.read = list[_ReadRow]()  # in the order in which they joined
        self.decoded = dict[DecodedRow, CachedRow]()

    @cached_property
    def cache(self) -> RowCache:
        # Made when it is first used, by the thread that computes: one that computes only this would keep threads of its
        # own, and with more threads than cores they go to sleep between two products.
        if self.adapters is not None:
            self.adapters.use([None])
        return RowCache(CacheForm.of_network(self.network))

    def has_room(self, row: DecodedRow) -> bool:
        count = len(self.read) + len(self.decoded)
        return not count or (count < self.max_rows and self._used_tokens + len(row.tokens) <= self.max_tokens)

    def join(self, row: DecodedRow) -> None:
        if row.begins is None and self.adapters is not None:
            # Of the prompt: what the row writes itself changes nothing, should it come back.
            row.begins = self.adapters.find_start(row.adapter, row.tokens)
        self.read.append(_ReadRow(row, self._ids(row)))

    def _ids(self, row: DecodedRow, start: int = 0) -> Ints:
        """The marked ids of a row's tokens from `start` on."""
        ids = np.array(row.tokens[start:], np.int64)
        if self.adapters is None:
            return ids
        assert row.begins is not None, "it has joined"
        return self.adapters.mark(row.adapter, ids, row.begins - start)

    @torch.inference_mode()
    def leave(self, row: DecodedRow) -> None:
        cached = self.decoded.pop(row, None)
        if cached is None:
            self.read = [one for one in self.read if one.row is not row]
            return
        # The next prompt of a conversation begins with all of this.
        start = len(cached.prefix.tokens) if cached.prefix else 0
        self.prefixes.store(self._ids(row)[: cached.position], cached.tail(), start)
        self.cache.remove(cached)
        self._forget_old_texts()

    @property
    def is_overfull(self) -> bool:
        return len(self.read) + len(self.decoded) > 1 and self._used_tokens > self.max_tokens

    @property
    def _used_tokens(self) -> int:
        """Tokens of the rows in memory; the prefix cache may have what they leave."""
        return self.cache.tokens + sum(len(one.tokens) for one in self.read)

    def _forget_old_texts(self) -> None:
        self.prefixes.shrink(self.max_tokens - self._used_tokens)

    @torch.inference_mode()
    def step(self) -> DecoderStep:
        self._decode_what_is_read()
        self.cache.grow()
        row_of = {cached: row for row, cached in self.decoded.items()}
        decoded = [row_of[cached] for cached in self.cache.rows]
        read = self._choose_chunks()
        starts = [one.reading.start for one in read if one.reading]
        tokens = [int(self._ids(row, len(row.tokens) - 1)[0]) for row in decoded]
        position = [self.decoded[row].position for row in decoded]
        wanted = list(range(len(decoded)))
        for (one, count), start in zip(read.items(), starts, strict=True):
            if one.row.all_logits:
                wanted += range(len(tokens), len(tokens) + count)
            elif count == one.left:
                wanted.append(len(tokens) + count - 1)
            tokens += one.tokens[start : start + count].tolist()
            position += range(start, start + count)
        logits = self._forward(tokens, position, wanted, read)
        return self._split(decoded, read, logits)

    def _forward(
        self,
        tokens: Sequence[int],
        position: Sequence[int],
        wanted: Sequence[int],
        read: dict[_ReadRow, int],
    ) -> Tensor:
        """[wanted, V] the logits after some of the T tokens, which are marked."""
        device, ids = self.network.device, torch.tensor(tokens)
        if self.adapters is not None:
            ids = self.adapters.use_marked(ids)
        readings = [one.reading for one in read if one.reading is not None]
        layout = make_step_layout(self.network, self.cache, readings, list(read.values()))
        out = self.network(
            input_ids=ids[None].to(device),
            position_ids=torch.tensor([position], device=device) + self.first,
            layout=layout,
            use_cache=False,
            logits_to_keep=torch.tensor(wanted, dtype=torch.long, device=device),
        )
        layout.end()
        logits: Tensor = out.logits[0]
        return logits

    def _split(self, decoded: list[DecodedRow], read: dict[_ReadRow, int], logits: Tensor) -> DecoderStep:
        """The logits of each row, and prompts that were read to their end into the prefix cache."""
        rows, places, prompts, place = list(decoded), list(range(len(decoded))), [], len(decoded)
        for one, count in read.items():
            if one.row.all_logits:
                prompts.append((one.row, logits[place : place + count]))
                place += count - 1
            if not one.left:
                assert one.reading is not None
                start = sum(map(len, one.reading.context))
                self.prefixes.store(one.tokens, one.reading.text(), start)
                rows.append(one.row)
                places.append(place)
            if one.row.all_logits or not one.left:
                place += 1
        self._forget_old_texts()
        return DecoderStep(rows, logits if len(places) == len(logits) else logits[places], prompts)

    def _choose_chunks(self) -> dict[_ReadRow, int]:
        """How many tokens of which prompts the next forward reads."""
        budget = self.chunk if self.decoded else max(self.chunk, IDLE_CHUNK_TOKENS)
        for index, one in enumerate(self.read):
            if one.reading is None:
                self._begin(one, self.read[:index])
        begun = [one for one in self.read if one.left]
        if not begun:
            return {}
        # Half for the oldest, so that it ends; the rest for those that end soonest.
        oldest, *others = begun
        chunks = {oldest: min(oldest.left, budget if not others else budget // 2)}
        for one in sorted(others, key=lambda one: one.left):
            count = min(one.left, budget - sum(chunks.values()))
            if count:
                chunks[one] = count
        chunks[oldest] += min(oldest.left - chunks[oldest], budget - sum(chunks.values()))
        return chunks

    def _begin(self, one: _ReadRow, earlier: Sequence[_ReadRow]) -> None:
        """Begin to read a prompt after what is cached of it, unless another is about to compute more of it."""
        if one.row.all_logits:
            one.reading = PromptReading(self.cache.form, (), len(one.tokens))
            return
        # The last token is computed in any case: its logits are wanted.
        known = one.tokens[:-1]
        context = self.prefixes.find(known)
        found = sum(map(len, context))
        if any(
            common_prefix_length(known, other.tokens) >= found + MIN_AWAITED
            for other in earlier
            if other.left or not other.reading
        ):
            return
        self.cached_tokens += found
        one.reading = PromptReading(self.cache.form, context, len(one.tokens) - found)

    def _decode_what_is_read(self) -> None:
        """Give rows whose prompt is read, and whose first token is chosen, their place in the cache."""
        for one in [one for one in self.read if one.reading and not one.left]:
            assert one.reading is not None
            self.read.remove(one)
            texts, count = [*one.reading.context, one.reading.text()], len(one.tokens)
            prefix = self._prefix_of(one)
            if prefix is None and (length := self._shared_length(one)):
                prefix = Prefix(one.tokens[:length], concatenate(texts, 0, length).copy())
            start = len(prefix.tokens) if prefix else 0
            self.decoded[one.row] = self.cache.add(concatenate(texts, start, count), prefix)

    def _prefix_of(self, one: _ReadRow) -> Prefix | None:
        """The longest prefix of decoded rows that a row begins with."""
        fitting = [
            prefix
            for prefix in self.cache.prefixes
            if common_prefix_length(prefix.tokens, one.tokens) == len(prefix.tokens)
        ]
        return max(fitting, key=lambda prefix: len(prefix.tokens), default=None)

    def _shared_length(self, one: _ReadRow) -> int:
        """The length of a beginning that rows about to be decoded share with this one; 0 if it is too short."""
        lengths = Counter(common_prefix_length(one.tokens, other.tokens) for other in self.read)
        lengths = Counter({length: count for length, count in lengths.items() if length >= MIN_PREFIX})
        # A shorter beginning is shared by the rows with a longer one too.
        saved = {length: length * sum(n for other, n in lengths.items() if other >= length) for length in lengths}
        return max(saved, key=lambda length: saved[length], default=0)
