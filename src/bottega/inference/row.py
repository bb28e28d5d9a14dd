"""A continuation while it is generated: its text, its random numbers, and when it ends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bottega.inference.token_constraints import TokenConstraints
from bottega.sampling import Sampling
from bottega.seeding import derive
from bottega.tokenization.detokenize import StopStrings, TextStream

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


class GeneratedRow:
    """A continuation being generated: detokenizes its tokens, and knows when it has ended.

    index        its place among all that are generated together
    ends         token ids that end it
    uniform      random numbers in [0, 1), one for each token
    constraints  what changes its logits; None if nothing does
    streamed     the text is needed token by token, for streaming or to find stop strings
    """

    def __init__(
        self,
        index: int,
        prompt: tuple[int, ...],
        settings: Sampling,
        *,
        tokenizer: Any,
        ends: frozenset[int],
        uniform: Iterator[float],
        constraints: TokenConstraints | None,
        streamed: bool,
    ) -> None:
        self.index, self.prompt, self.uniform, self.streamed = index, prompt, uniform, streamed
        self.ends, self.left, self.constraints = ends, settings.tokens, constraints
        self.reason: Reason | None = None
        self._text = TextStream(tokenizer, after=prompt[-CONTEXT_TOKENS:])
        self._stops = StopStrings(settings.stop)

    def add(self, token: int) -> TextPiece:
        """Append the next token."""
        self.left -= 1
        if self.constraints is not None:
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


def uniform_numbers(seed: int, prompt: tuple[int, ...], number: int) -> Iterator[float]:
    """An endless stream of uniform random numbers in [0, 1) for continuation `number` of a prompt."""
    named = int.from_bytes(hashlib.sha256(np.array(prompt, np.int64).tobytes()).digest()[:8])
    generator = np.random.default_rng(derive(seed, "sample", named, number))
    while True:
        yield from generator.random(64).tolist()
