"""The KV cache of rows that join, grow and leave while other rows are decoded (continuous batching, as in Orca).

A row that is read (prefill) keeps keys and values of its own, some tokens more with every forward. A row that is
decoded has a *tail* in a rectangle with other tails of about its length (`Bank`), and before it perhaps a *prefix*,
stored and read once for all rows that begin with it. One forward may compute the newest token of every decoded row and
some tokens of every row that is read; `StepLayout` is its attention.

Orca: Yu et al. 2022, OSDI. Prefix and tail are attended to apart and merged, as in Hydragen (Juravsky et al. 2024,
arXiv 2402.05099).

Extra legend: B rows of a bank, R rows and C tokens a row that it has room for, W tokens of it in use, S
tokens of a prefix, n new tokens of a row, M all its tokens; h query heads, g key/value heads, r = h/g, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from bottega.batch import Ints
from bottega.models.attention.cached_text import CachedText, CacheForm, layer_of
from bottega.models.attention.mask import AttentionOptions

# The smallest C. A bank holds tails of up to twice the length of the one before.
SMALLEST_BANK = 64

# R of banks of short tails, and R · C of all others with more than one row.
MOST_ROWS, BANK_TOKENS = 16, 4096

# W is a multiple of this: few lengths mean few kernels.
VISIBLE_STEP = 16

# Queries of a row that is read which are computed at once: the scores of all would not fit into a cache.
QUERY_BLOCK = 256

# The bias of a key that is not seen. Finite, so that a row that sees nothing of a part has a weight of zero in it.
HIDDEN = -1e30

# It returns what is needed to merge two parts, too, which the public function does not.
FLASH_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class PromptReading:
    """A row that is read: `length` tokens after a context that was computed before.

    memory  of the keys and values of these tokens
    done    of how many they were computed
    """

    def __init__(self, form: CacheForm, context: Sequence[CachedText], length: int) -> None:
        self.context, self.length, self.memory, self.done = context, length, form.new_text(length), 0

    @property
    def start(self) -> int:
        """The position of the next token to compute."""
        return sum(map(len, self.context)) + self.done

    def text(self) -> CachedText:
        """What was computed so far, without the context."""
        return self.memory.part(0, self.done)


@dataclass(eq=False)
class Prefix:
    """What some decoded rows begin with, stored once.

    tokens  its tokens
    rows    the rows that begin with it
    """

    tokens: Ints
    text: CachedText
    rows: list[CachedRow] = field(default_factory=list)


@dataclass(eq=False)
class CachedRow:
    """A decoded row: its prefix, and where its tail lies.

    length  tokens of the tail whose keys and values are stored
    """

    prefix: Prefix | None
    length: int
    bank: Bank
    slot: int

    @property
    def position(self) -> int:
        """The position of the next token."""
        return self.length + (len(self.prefix.tokens) if self.prefix else 0)

    def tail(self) -> CachedText:
        """Keys and values of the tail, in the memory of the bank."""
        return self.bank.part(self.slot, self.length)


class Bank:
    """A rectangle of tails: row i of `rows` lies in slot i.

    Its memory is allocated once: several banks of one size are cheaper than one that grows, which is copied each time.
    """

    def __init__(self, form: CacheForm, capacity: int) -> None:
        self.form, self.capacity, self.room = form, capacity, max(1, min(MOST_ROWS, BANK_TOKENS // capacity))
        self.rows: list[CachedRow] = []
        # [P, R, g, C, D] each. Zeros, not empty memory: weights of zero times what is not a number would not be zero.
        self.tensors = [_zeros(form, (p, self.room, g, capacity, d)) for p, g, d in form.shapes]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """(key, value) of a layer, [R, g, C, D] each."""
        return layer_of(self.form, self.tensors, index)

    def part(self, slot: int, length: int) -> CachedText:
        """The first tokens of a slot, in the same memory."""
        return CachedText(self.form, [tensor[:, slot, :, :length] for tensor in self.tensors])

    def insert(self, row: CachedRow, tail: CachedText) -> None:
        """Give a row the next slot, with a copy of its tail."""
        row.bank, row.slot, row.length = self, len(self.rows), len(tail)
        self.rows.append(row)
        self.write(row.slot, tail)

    def write(self, slot: int, tail: CachedText) -> None:
        """Copy a tail into a slot."""
        for memory, tensor in zip(self.part(slot, len(tail)).tensors, tail.tensors, strict=True):
            memory.copy_(tensor)


def _zeros(form: CacheForm, shape: tuple[int, ...]) -> Tensor:
    if form.device.type != "cpu":
        return torch.zeros(shape, dtype=form.dtype, device=form.device)
    # Of NumPy's zeros, pages that nothing is written to take no memory, and no time.
    return torch.from_numpy(np.zeros(math.prod(shape) * form.dtype.itemsize, np.uint8)).view(form.dtype).view(shape)


class RowCache:
    """All decoded rows. Their order is that of `rows`: bank after bank, slot after slot."""

    def __init__(self, form: CacheForm) -> None:
        self.form = form
        self.banks: list[Bank] = []
        self.prefixes: list[Prefix] = []

    @property
    def rows(self) -> list[CachedRow]:
        return [row for bank in self.banks for row in bank.rows]

    @property
    def tokens(self) -> int:
        """Tokens that the memory of banks and prefixes has room for."""
        of_banks = sum(bank.room * bank.capacity for bank in self.banks)
        return of_banks + sum(len(prefix.tokens) for prefix in self.prefixes)

    def add(self, tail: CachedText, prefix: Prefix | None = None) -> CachedRow:
        """A row with a tail, which is copied, after a prefix."""
        bank = self._bank(len(tail) + 1)
        row = CachedRow(prefix, len(tail), bank, slot=0)
        bank.insert(row, tail)
        if prefix is not None:
            if prefix not in self.prefixes:
                self.prefixes.append(prefix)
            prefix.rows.append(row)
        return row

    def remove(self, row: CachedRow) -> None:
        """Forget a row, and its prefix with the last row that begins with it."""
        self._clear(row.bank, row.slot)
        if row.prefix is not None:
            row.prefix.rows.remove(row)
            if not row.prefix.rows:
                self.prefixes.remove(row.prefix)

    def grow(self) -> None:
        """Make room for one more token of every row: a full one moves to a larger bank."""
        for row in self.rows:
            if row.length == row.bank.capacity:
                bank, slot, tail = row.bank, row.slot, row.tail()
                self._bank(row.length + 1).insert(row, tail)
                self._clear(bank, slot)

    def _bank(self, length: int) -> Bank:
        """A bank with a free slot for a tail of this length."""
        capacity = max(SMALLEST_BANK, 1 << (length - 1).bit_length())
        for bank in self.banks:
            if bank.capacity == capacity and len(bank.rows) < bank.room:
                return bank
        self.banks.append(Bank(self.form, capacity))
        return self.banks[-1]

    def _clear(self, bank: Bank, slot: int) -> None:
        """Empty a slot; the last row of this size moves there, so that no other slot is empty."""
        source = [one for one in self.banks if one.capacity == bank.capacity][-1]
        last = source.rows.pop()
        place = len(source.rows)
        if (source, place) != (bank, slot):
            bank.write(slot, source.part(place, last.length))
            bank.rows[slot] = last
            last.bank, last.slot = bank, slot
        if not source.rows:
            self.banks.remove(source)


class StepLayout:
    """The attention of one forward over the flat sequence of: the newest token of every row of a cache, in the order of
    its rows; then the next tokens of every reading.

    counts  how many tokens of each reading
    """

    def __init__(
        self, cache: RowCache, readings: Sequence[PromptReading], counts: Sequence[int], device: torch.device
    ) -> None:
        self.cache, self.readings, self.counts, self.device = cache, readings, counts, device
        # Layers call in their order, so a counter tells whose cache this is.
        self.decoded, self._layer = len(cache.rows), 0

    @cached_property
    def banks(self) -> list[_BankStep]:
        steps, start = list[_BankStep](), 0
        for bank in self.cache.banks:
            steps.append(_BankStep(bank, slice(start, start + len(bank.rows)), self.device))
            start += len(bank.rows)
        return steps

    @cached_property
    def prefixes(self) -> list[_PrefixStep]:
        place = {row: index for index, row in enumerate(self.cache.rows)}
        return [_PrefixStep(prefix, [place[row] for row in prefix.rows], self.device) for prefix in self.cache.prefixes]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        """[1, h, T, D], [1, g, T, D], [1, g, T, D] → [1, T, h, D]."""
        layer = self._next_layer()
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, h, D], [T, g, D], [T, g, D]
        out = q.new_empty(len(q), q.shape[1], v.shape[-1])
        if self.decoded:
            out[: self.decoded] = self._decode(layer, q[: self.decoded], k[: self.decoded], v[: self.decoded], options)
        start = self.decoded
        for reading, count in zip(self.readings, self.counts, strict=True):
            new = slice(start, start + count)
            out[new] = _read(reading, layer, q[new], k[new], v[new], options)
            start += count
        return out[None]

    def _decode(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
        """[B, h, D], [B, g, D], [B, g, D] → [B, h, D] of the decoded rows."""
        parts = [bank.attend(layer, q[bank.rows], k[bank.rows], v[bank.rows], options) for bank in self.banks]
        out, total = (torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True))
        for prefix in self.prefixes:
            prefix.merge(layer, q, out, total, options)
        return _with_sinks(out, total, options).flatten(1, 2)

    def _next_layer(self) -> int:
        self._layer += 1
        return self._layer - 1

    def end(self) -> None:
        """Count the tokens of this forward as stored: call it once the forward has ended without an error."""
        for row in self.cache.rows:
            row.length += 1
        for reading, count in zip(self.readings, self.counts, strict=True):
            reading.done += count


class _BankStep:
    """One bank in one forward: its rows as a slice of the decoded rows, and where their new token goes."""

    def __init__(self, bank: Bank, rows: slice, device: torch.device) -> None:
        self.bank, self.rows = bank, rows
        lengths = [row.length for row in bank.rows]
        self.visible = min(-(-(max(lengths) + 1) // VISIBLE_STEP) * VISIBLE_STEP, bank.capacity)
        self.written = torch.tensor(lengths, device=device)
        self.places: dict[int, Tensor] = {}
        self.biases: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
        """[B, h, D], [B, g, D], [B, g, D] → [B, g, r, D], [B, g, r]: see `_attend`."""
        count, heads = k.shape[:2]
        key, value = self.bank.layer(layer)
        for bank, new in ((key, k), (value, v)):
            bank.view(-1, bank.shape[-1]).index_copy_(0, self._places(heads), new.reshape(-1, new.shape[-1]))
        key, value = key[:count, :, : self.visible], value[:count, :, : self.visible]  # [B, g, W, D]
        # The queries of a group as so many places of one head: its keys are read once.
        q = q.view(count, heads, -1, q.shape[-1])
        return _attend(q, key, value, self._bias(options.window, q.dtype), options)

    def _places(self, heads: int) -> Tensor:
        """[B · g] where the new keys go, as indices of [R · g · C]."""
        if heads not in self.places:  # g may differ from layer to layer
            rows = torch.arange(len(self.written) * heads, device=self.written.device)
            self.places[heads] = rows * self.bank.capacity + self.written.repeat_interleave(heads)
        return self.places[heads]

    def _bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[B, 1, 1, W]."""
        if (window, dtype) not in self.biases:
            distance = self.written[:, None] - torch.arange(self.visible, device=self.written.device)  # [B, W]
            self.biases[window, dtype] = _bias(distance, window, dtype)[:, None, None]
        return self.biases[window, dtype]


class _PrefixStep:
    """One prefix in one forward, and the indices of the rows that begin with it."""

    def __init__(self, prefix: Prefix, rows: Sequence[int], device: torch.device) -> None:
        self.prefix, self.rows = prefix, torch.tensor(rows, device=device)
        positions = torch.tensor([row.position for row in prefix.rows], device=device)
        self.distance = positions[:, None] - torch.arange(len(prefix.tokens), device=device)  # [B, S]

    def merge(self, layer: int, q: Tensor, out: Tensor, total: Tensor, options: AttentionOptions) -> None:
        """Add the attention to the prefix, in place: q [B, h, D], out [B, g, r, D], total [B, g, r], of all rows."""
        key, value = self.prefix.text.layer(layer)  # [g, S, D]
        count, (_, heads, group, width) = len(self.rows), out.shape
        # All rows as so many places of one head, so that its keys are read once.
        places = q[self.rows].view(count, heads, group, -1).transpose(0, 1).reshape(1, heads, count * group, -1)
        bias = None
        if options.window is not None:
            bias = _bias(self.distance, options.window, q.dtype).repeat_interleave(group, 0)  # [B·r, S]
        attended, attended_total = _attend(places, key[None], value[None], bias, options)
        attended = attended.view(heads, count, group, width).transpose(0, 1)
        attended_total = attended_total.view(heads, count, group).transpose(0, 1)
        share = torch.sigmoid(attended_total - total[self.rows])[..., None]
        out[self.rows] = torch.lerp(out[self.rows], attended, share.to(out.dtype))
        total[self.rows] = torch.logaddexp(total[self.rows], attended_total)


def _read(reading: PromptReading, layer: int, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
    """[n, h, D], [n, g, D], [n, g, D] → [n, h, D] of the next n tokens of a row that is read."""
    count, heads = k.shape[:2]
    key, value = reading.memory.layer(layer)
    end = reading.done + count
    key[:, reading.done : end], value[:, reading.done : end] = k.transpose(0, 1), v.transpose(0, 1)
    key, value = key[:, :end], value[:, :end]
    if reading.context:
        before = [text.layer(layer) for text in reading.context]
        key = torch.cat([*(part for part, _ in before), key], 1)  # [g, M, D]
        value = torch.cat([*(part for _, part in before), value], 1)
    rows = q.view(count, heads, -1, q.shape[-1]).permute(1, 2, 0, 3)  # [g, r, n, D]
    blocks = [
        _read_block(rows[:, :, start : start + QUERY_BLOCK], key, value, reading.start + start, options)
        for start in range(0, count, QUERY_BLOCK)
    ]
    return (torch.cat(blocks) if len(blocks) > 1 else blocks[0]).flatten(1, 2)


def _read_block(q: Tensor, key: Tensor, value: Tensor, start: int, options: AttentionOptions) -> Tensor:
    """[g, r, n, D] of queries at the positions from `start` on, [g, M, D], [g, M, D] → [n, g, r, D]."""
    heads, group, count, _ = q.shape
    seen = start + count  # no query sees a key after itself
    key, value = (x[:, None, :seen].expand(heads, group, seen, x.shape[-1]) for x in (key, value))
    positions = torch.arange(seen, device=q.device)
    bias = _bias(positions[start:, None] - positions, options.window, q.dtype)
    out, total = _attend(q, key, value, bias, options)
    return _with_sinks(out.permute(2, 0, 1, 3), total.permute(2, 0, 1), options)


def _attend(
    q: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, options: AttentionOptions
) -> tuple[Tensor, Tensor]:
    """Attention without sinks, and the logarithm of its total weight, which tells how much of a whole it is.

    q [X, Y, L, D], key and value [X, Y, S, D], bias broadcast to [X, Y, L, S] → [X, Y, L, D], [X, Y, L] in float32 or
    wider.
    """
    if q.device.type == "cpu" and options.softcap is None:
        mask = None if bias is None else bias.expand(len(q), 1, q.shape[2], key.shape[2])
        # It reads wrong memory if the values of a head do not lie side by side.
        q, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, key, value))
        out, total = FLASH_ON_CPU(q, key, value, 0.0, False, attn_mask=mask, scale=options.scaling)
        return out, total
    scores = q @ key.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * options.scaling
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1).to(value.dtype) @ value, scores.logsumexp(-1)


def _with_sinks(out: Tensor, total: Tensor, options: AttentionOptions) -> Tensor:
    """[…, g, r, D] attention and [.., g, r] its total weight → the same with a sink for each head, if there are any."""
    if options.sinks is None:
        return out
    sinks = options.sinks.to(total.dtype).view(total.shape[-2:])
    return out * torch.sigmoid(total - sinks)[..., None].to(out.dtype)


def _bias(distance: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """The bias of keys by the distance of the query behind them: negative distances are not seen."""
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return torch.zeros(distance.shape, dtype=dtype, device=distance.device).masked_fill_(hidden, HIDDEN)
