"""Rows that a language model finds unlike the others: text that is garbled, and text that is overly repetitive."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding
from bottega.batch import Row
from bottega.errors import BottegaError
from bottega.seeding import derive

# Rows sampled for scoring, and tokens of each: scoring takes far longer than all other checks.
SAMPLE_SIZE, MAX_TOKENS = 2000, 256

# Characters of a row that are kept until it is tokenized; a token rarely has more than eight.
MAX_CHARACTERS = 8 * MAX_TOKENS

# Tokens below which a mean loss is mostly noise.
MIN_TOKENS = 8

# Robust standard deviations from the median from which a row is an outlier.
OUTLIER_DEVIATIONS = 5.0

# The median absolute deviation of a normal distribution times this is its standard deviation. The median is used
# because the outliers that are searched for would inflate a standard deviation.
MAD_TO_STD = 1.4826


class Quality(Check):
    """Outliers, in both directions, of the loss per token under the model, over a random sample of the rows."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._random = random.Random(derive(context.seed, "quality"))
        self.sample: list[tuple[int, str]] = []  # (row, start of its text)
        self.count, self.error, self.short = 0, "", 0

    def add(self, entries: Sequence[Entry]) -> None:
        if self.context.model is None:
            return
        # Reservoir sampling: a uniform sample of a stream whose length is not known.
        for entry in entries:
            self.count += 1
            if len(self.sample) < SAMPLE_SIZE:
                self.sample.append((entry.row, entry.content[:MAX_CHARACTERS]))
            elif (slot := self._random.randrange(self.count)) < SAMPLE_SIZE:
                self.sample[slot] = (entry.row, entry.content[:MAX_CHARACTERS])

    def findings(self) -> Iterator[Finding]:
        if self.context.model is None or not self.sample:
            return
        try:
            rows, losses = self._score(self.context.model)
        except BottegaError as error:
            # A tokenizer without weights suffices for all other checks, so this is reported and not raised.
            self.error = error.what
            return
        if not len(losses):
            return
        median = np.median(losses)
        deviation = MAD_TO_STD * np.median(np.abs(losses - median))
        limit = OUTLIER_DEVIATIONS * deviation
        fix = "look at them; each is shown with its loss per token (nats)"
        for kind, what, outlier in (
            ("unlikely text", "the model finds these far less likely than the rest", losses > median + limit),
            ("too likely text", "the model finds these far more likely than the rest", losses < median - limit),
        ):
            if outlier.any() and deviation > 0:
                order = np.argsort(-np.abs(losses[outlier] - median), kind="stable")  # the most extreme first
                names = [f"{loss:.2f}" for loss in losses[outlier][order]]
                what = f"{what} (median loss {median:.2f})"
                yield self.context.finding(kind, "note", what, fix, rows[outlier][order], names=names)

    def _score(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """([scored] row indices in ascending order, [scored] mean loss per token in nats) of the sample."""
        # Imported here because it imports torch, which the other checks do without.
        from bottega.inference.language_model import load_language_model

        self.context.report_status(f"scoring {len(self.sample)} rows")
        model = load_language_model(name)
        indices, rows = list[int](), list[Row]()
        for index, text in sorted(self.sample):
            ids = np.array(model.codec.encode_prompt(text)[:MAX_TOKENS], np.int64)  # [T]
            if len(ids) >= MIN_TOKENS:
                at = np.arange(len(ids) - 1)
                # Equal weights that sum to 1, so that the log-probability of a row is its mean per token.
                rows.append(Row(ids, at, ids[1:], np.full(len(at), 1 / len(at), np.float32)))
                indices.append(index)
        self.short = len(self.sample) - len(rows)
        return np.array(indices, np.int64), -model.logp(rows) if rows else np.empty(0)

    @property
    def unchecked(self) -> str:
        if self.context.model is None:
            return "the likelihood of each row: needs --model with weights"
        if self.error:
            return f"the likelihood of each row: {self.error}"
        skipped = self.count - len(self.sample) + self.short
        if not skipped:
            return ""
        return (
            f"the likelihood of {skipped:,} of {self.count:,} rows: {len(self.sample):,} are sampled, "
            f"and those under {MIN_TOKENS} tokens are skipped"
        )
