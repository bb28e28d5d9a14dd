"""What happens to rows with more than `max_length` tokens: shortened prompts, cut ends, or an error.

Splitting a document into blocks is done where it is encoded, in `codec`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bottega.batch import Row
from bottega.errors import DataError
from bottega.records import TooLong, Unusable
from bottega.tokenization.shorten_prompt import shorten_prompt
from bottega.tokenization.special_tokens import SpecialTokens
from bottega.tokenization.tally import Tally
from bottega.tokenization.text_encoder import TextEncoder


@dataclass
class Truncation:
    """How many texts or rows were cut inside one `with codec.track_truncation()` block.

    max_length  where they were cut
    """

    max_length: int
    count: int = 0

    @property
    def note(self) -> str:
        """The end of a message about what was encoded; empty where nothing was cut."""
        return f", cut at {self.max_length}" if self.count else ""


class LengthLimit:
    """A limit in tokens with a policy for what exceeds it; `tally` counts what is cut."""

    def __init__(
        self,
        max_length: int,
        policy: TooLong,
        encoder: TextEncoder,
        special_tokens: SpecialTokens,
        tally: Tally | None = None,
    ) -> None:
        self.max_length, self.policy = max_length, policy
        self._encoder, self._special_tokens = encoder, special_tokens
        self.tally = tally or Tally()

    @contextmanager
    def track(self) -> Iterator[Truncation]:
        """Count what is cut inside the `with` block; the count is set at its end, also after an error."""
        # A difference of the running total: one record may be cut several times, and blocks may be nested.
        before, truncation = self.tally.truncated, Truncation(self.max_length)
        try:
            yield truncation
        finally:
            truncation.count = self.tally.truncated - before

    def excess(self, row: Row) -> int:
        """Tokens over the limit, of the row or of what its encoder reads; negative where there is room left."""
        return max(len(row.tokens), row.source_length) - self.max_length

    def check(self, where: str, length: int, *, prompt: bool = False) -> None:
        """Raise unless the policy allows to cut a row of `length` tokens; with `prompt`, to cut its prompt."""
        if self.policy == "error":
            raise DataError(
                f"{length} tokens, more than max_length {self.max_length}",
                where=where,
                fix="raise data.max_length, or set data.too_long to shorten, drop or truncate",
            )
        # `split` applies to documents only; what cannot be split is dropped.
        if self.policy != "truncate" and not (prompt and self.policy == "shorten"):
            raise Unusable(f"longer than max_length {self.max_length}")

    def cut(self, where: str, row: Row) -> Row:
        """Cut the end of a row, and of what its encoder reads; Unusable where no label is left."""
        row = self.cut_source(where, row)
        if len(row.tokens) <= self.max_length:
            return row
        self.check(where, len(row.tokens))
        # A prediction is read at its `at`: its label may lie beyond the cut, so the last kept token still predicts.
        kept = row.at < self.max_length  # [n]
        if not row.weight[kept].any():
            raise Unusable(f"all labels lost to truncation at max_length {self.max_length}")
        self.tally.truncated += 1
        tokens = row.tokens[: self.max_length]
        return replace(row, tokens=tokens, at=row.at[kept], label=row.label[kept], weight=row.weight[kept])

    def cut_source(self, where: str, row: Row) -> Row:
        """Cut the end of what the row's encoder reads, if it has one."""
        if row.source is None or len(row.source) <= self.max_length:
            return row
        self.check(where, len(row.source))
        self.tally.truncated += 1
        # An encoder was pre-trained on texts that end with these tokens.
        _, after = self._special_tokens.frame
        return replace(row, source=np.append(row.source[: self.max_length - len(after)], after))

    def fit(self, where: str, prompt: Any, make_rows: Callable[[Any], list[Row]]) -> list[Row]:
        """Make rows that share a prompt, which is shortened where they are too long.

        An answer that is too long by itself has its end cut, where the policy is `truncate`; half of the row is then
        left to its prompt.

        prompt  a text or messages
        """
        rows = make_rows(prompt)
        if max(map(self.excess, rows)) <= 0:
            return rows
        if self.policy in ("shorten", "truncate"):
            # First as little of the prompt as it takes to keep the whole answer; then no less than half a row of it.
            for least in (1, self.max_length // 2) if self.policy == "truncate" else (1,):
                shorter_rows = self._shorten(prompt, make_rows, rows, least)
                if max(map(self.excess, shorter_rows)) <= 0:
                    self.tally.truncated += 1
                    return shorter_rows
            # Still too long: what is cut below has half a row of its prompt, so that the answer keeps the other half.
            rows = shorter_rows
        return [self.cut(where, row) for row in rows]

    def _shorten(self, prompt: Any, make_rows: Callable[[Any], list[Row]], rows: list[Row], least: int) -> list[Row]:
        """The rows with the longest prompt that lets them fit, or else with the shortest possible one."""
        while (excess := max(map(self.excess, rows))) > 0:
            shorter = self.shorten_prompt(prompt, excess, least)
            if shorter is None:
                break
            # Rows are made again: a template may render a shorter prompt with more or fewer tokens than were dropped.
            prompt, rows = shorter, make_rows(shorter)
        return rows

    def shorten_prompt(self, prompt: Any, excess: int, least: int = 1) -> Any:
        """A prompt shorter by about `excess` tokens, of a text at least `least`; None where it cannot be shortened."""
        return shorten_prompt(prompt, excess, least, self._encoder.offsets)
