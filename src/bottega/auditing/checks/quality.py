"""Rows that a model finds unlike the others: text that is none, and text it could recite."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding
from bottega.batch import Row
from bottega.errors import BottegaError
from bottega.seeding import derive

SCORED, LONGEST = 2000, 256
"""Rows drawn to be scored, and tokens of each."""

SHORTEST = 8
"""Tokens below which a mean says little."""

FAR = 5.0
"""Deviations from the median, in units of the median deviation made a standard one, that are an outlier."""


class Quality(Check):
    """Loss in nats a token of a sample of the rows by the model named; outliers both ways."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._draw = random.Random(derive(context.seed, "quality"))
        self.kept: list[tuple[int, str]] = []
        self.seen, self.why, self.short = 0, "", 0

    def see(self, entries: Sequence[Entry]) -> None:
        if self.context.model is None:
            return
        for one in entries:
            self.seen += 1
            if len(self.kept) < SCORED:
                self.kept.append((one.number, one.content[: 8 * LONGEST]))
            elif (place := self._draw.randrange(self.seen)) < SCORED:
                self.kept[place] = (one.number, one.content[: 8 * LONGEST])

    def findings(self) -> Iterator[Finding]:
        if self.context.model is None or not self.kept:
            return
        try:
            numbers, loss = self._losses(self.context.model)
        except BottegaError as error:
            self.why = error.what
            return
        if not len(loss):
            return
        middle = np.median(loss)
        spread = 1.4826 * np.median(np.abs(loss - middle))
        fix = "look at them; each is shown with its loss in nats a token"
        for kind, what, far in (
            ("unlikely text", "the model finds these far less likely than the rest", loss > middle + FAR * spread),
            ("too likely text", "the model finds these far more likely than the rest", loss < middle - FAR * spread),
        ):
            if far.any() and spread > 0:
                order = np.argsort(-np.abs(loss[far] - middle), kind="stable")
                names = [f"{value:.2f}" for value in loss[far][order]]
                what = f"{what}, whose median is {middle:.2f}"
                yield self.context.finding(kind, "note", what, fix, numbers[far][order], names=names)

    def _losses(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers, mean loss a token) of the sample, in the order of the rows."""
        from bottega.inference.language_model import load

        self.context.tell(f"scoring {len(self.kept)} rows")
        model = load(name)
        numbers, rows = list[int](), list[Row]()
        for number, text in sorted(self.kept):
            ids = np.array(model.codec.encode_prompt(text)[:LONGEST], np.int64)
            if len(ids) >= SHORTEST:
                at = np.arange(len(ids) - 1)
                rows.append(Row(ids, at, ids[1:], np.full(len(at), 1 / len(at), np.float32)))
                numbers.append(number)
        self.short = len(self.kept) - len(rows)
        return np.array(numbers, np.int64), -model.logp(rows) if rows else np.empty(0)

    @property
    def unchecked(self) -> str:
        if self.context.model is None:
            return "how likely a model finds each row: name a --model with weights"
        if self.why:
            return f"how likely the model finds each row: {self.why}"
        left = self.seen - len(self.kept)
        return (
            f"how likely the model finds {left + self.short:,} of {self.seen:,} rows: {len(self.kept):,} are drawn, "
            f"those under {SHORTEST} tokens left out"
            if left or self.short
            else ""
        )
