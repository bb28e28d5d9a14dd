"""Rows that join, grow and leave: their scores are those of whole rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from test_kv_cache import KINDS, close, network_of, of_whole_rows, scores

from bottega.models.attention.cached_text import CachedText, CacheForm, concatenate
from bottega.models.attention.row_cache import (
    MOST_ROWS,
    SMALLEST_BANK,
    Bank,
    CachedRow,
    Prefix,
    PromptReading,
    RowCache,
    StepLayout,
)


@dataclass(eq=False)
class Row:
    """A row of the test: `ids` of which the first `read` are read, and the others decoded one by one."""

    ids: list[int]
    read: int
    context: list[CachedText] = field(default_factory=list)
    prefix: Prefix | None = None
    cached: CachedRow | None = None
    reading: PromptReading | None = None


class Rows:
    """Computes rows step by step, and compares every step with the scores of whole rows.

    reference  the network that computes these; as a rule the same
    compare    is told the scores of a step, and those of whole rows
    """

    def __init__(
        self,
        network: Any,
        reference: Any = None,
        layout: type[StepLayout] = StepLayout,
        compare: Callable[[torch.Tensor, torch.Tensor], None] = close,
    ) -> None:
        self.network, self.reference, self.layout, self.compare = network, reference or network, layout, compare
        self.rows, self.cache = list[Row](), RowCache(CacheForm.of_network(network))

    def add(self, row: Row) -> Row:
        row.reading = PromptReading(self.cache.form, row.context, row.read - sum(map(len, row.context)))
        self.rows.append(row)
        return row

    def step(self, tokens: int) -> None:
        """One more token of every row that is decoded, `tokens` of every row that is read."""
        self.cache.grow()
        of_cached = {row.cached: row for row in self.rows if row.cached}
        decoded = [of_cached[cached] for cached in self.cache.rows]
        reading = {row: row.reading for row in self.rows if row.reading}
        counts = [min(tokens, one.length - one.done) for one in reading.values()]
        spans = [(row, row.cached.position, 1) for row in decoded if row.cached]
        spans += [(row, one.start, count) for (row, one), count in zip(reading.items(), counts, strict=True)]
        ids = [token for row, start, count in spans for token in row.ids[start : start + count]]
        position = [place for _, start, count in spans for place in range(start, start + count)]
        last = np.cumsum([count for *_, count in spans]) - 1
        layout = self.layout(self.cache, list(reading.values()), counts, torch.device("cpu"))
        found = scores(self.network, torch.tensor(ids), torch.tensor(position), layout, torch.tensor(last))
        layout.end()
        self.compare(found, of_whole_rows(self.reference, [row.ids[: start + count] for row, start, count in spans]))
        for row, one in reading.items():
            if one.done == one.length:
                self.join(row, one)
        for row in decoded:
            if row.cached and row.cached.position == len(row.ids):
                self.cache.remove(row.cached)
                self.rows.remove(row)

    def join(self, row: Row, reading: PromptReading) -> None:
        start = len(row.prefix.tokens) if row.prefix else 0
        tail = concatenate([*reading.context, reading.text()], start, row.read)
        row.cached, row.reading = self.cache.add(tail, row.prefix), None


def play(rows: Rows) -> None:
    """Rows in chunks, after a context, with a shared prefix; they outgrow their bank, and leave one after the other."""
    draw = np.random.default_rng(0)

    def words(count: int) -> list[int]:
        return list(map(int, draw.integers(5, 250, count)))

    start = words(18)
    first = rows.add(Row([*start, *words(12)], read=25))
    rows.add(Row(words(SMALLEST_BANK + 6), read=SMALLEST_BANK - 2))
    rows.step(25)
    assert first.cached
    shared = first.cached.tail().part(0, 18).copy()
    prefix = Prefix(np.array(start), shared)
    # One of them shares the prefix whole, and is read after part of it alone.
    rows.add(Row([*start, *words(9)], 22, [shared], prefix))
    rows.add(Row([*start, *words(6)], 19, [shared.part(0, 7), shared.part(7, 12)], prefix))
    # One more than a bank has room for.
    for number in range(MOST_ROWS):
        rows.add(Row(words(4 + number), 3))
    steps = 0
    while rows.rows:
        rows.step(9)
        steps += 1
    assert steps > 8
    assert (rows.cache.banks, rows.cache.prefixes, rows.cache.tokens) == ([], [], 0)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scores_are_those_of_whole_rows(kind: str) -> None:
    play(Rows(network_of(kind)))


@torch.no_grad()
def test_memory_follows_the_rows() -> None:
    """Banks come with rows, are filled up again when rows leave, and go with the last; long rows have smaller ones."""
    form = CacheForm.of([(torch.ones(2, 5, 4), torch.ones(2, 5, 4))])
    cache, text = RowCache(form), CachedText(form, [torch.ones(2, 2, 5, 4)])
    rows = [cache.add(text) for _ in range(MOST_ROWS + 2)]
    assert cache.tokens == 2 * MOST_ROWS * SMALLEST_BANK
    cache.remove(rows[3])
    cache.remove(rows[0])
    assert [len(bank.rows) for bank in cache.banks] == [MOST_ROWS]
    assert cache.tokens == MOST_ROWS * SMALLEST_BANK
    for row in cache.rows[1:]:
        cache.remove(row)
    (kept,) = cache.rows
    kept.length = SMALLEST_BANK
    cache.grow()
    assert (cache.tokens, kept.length, len(cache.banks)) == (MOST_ROWS * 2 * SMALLEST_BANK, SMALLEST_BANK, 1)
    assert kept.tail().layer(0)[0][:, :5].eq(1).all()
    assert [Bank(form, size).room for size in (256, 1024, 4096)] == [16, 4, 1]
