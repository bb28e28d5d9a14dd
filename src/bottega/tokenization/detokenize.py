"""Tokens → text in a stream: no character is ever split, and nothing after a stop string is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Decoders write it for bytes that are not a complete character yet.
REPLACEMENT_CHARACTER = "\ufffd"


class TextStream:
    """Decodes tokens one by one; a character spread over several tokens comes with the last of them.

    special  show special tokens too
    after    tokens that come before the text, which are not shown
    """

    def __init__(self, tokenizer: Any, *, special: bool = False, after: Sequence[int] = ()) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._ids = list(after)
        # Each piece is decoded together with the one before, so that a tokenizer that strips a leading space keeps it.
        self._window, self._shown = 0, len(self._ids)
        self._before = self._decode(0, self._shown)

    def push(self, token: int) -> str:
        """Add a token and return the text it completes; empty while a character is incomplete."""
        self._ids.append(token)
        text = self._decode(self._window, len(self._ids))
        # A complete text may end so too, if the model writes the character itself: it then comes with the next token.
        return "" if text.endswith(REPLACEMENT_CHARACTER) else self._advance(text)

    def hold(self, token: int) -> None:
        """Add a token without decoding it: its text comes with the next piece."""
        self._ids.append(token)

    def end(self) -> str:
        """Return the text held back, even if its last character is incomplete."""
        return self._advance(self._decode(self._window, len(self._ids)))

    def _advance(self, text: str) -> str:
        added = text[len(self._before) :]
        self._window, self._shown = self._shown, len(self._ids)
        self._before = self._decode(self._window, self._shown)
        return added

    def _decode(self, start: int, end: int) -> str:
        return str(
            self._tokenizer.decode(
                self._ids[start:end], skip_special_tokens=not self._special, clean_up_tokenization_spaces=False
            )
        )


class StopStrings:
    """Passes text on until one of `stops` is complete; what may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self._held = ""
        self.met = False

    def push(self, text: str) -> str:
        """Add text and return what can be shown; nothing more once a stop string was found."""
        if self.met:
            return ""
        self._held += text
        positions = [position for stop in self.stops if (position := self._held.find(stop)) >= 0]
        if positions:
            self.met = True
            return self._release(min(positions))
        return self._release(len(self._held) - self._partial_length())

    def end(self) -> str:
        """Return what was held back, when no more text comes."""
        return "" if self.met else self._release(len(self._held))

    def _partial_length(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        # One character less than a stop string: a whole one would have been found.
        sizes = range(min(longest, len(self._held)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(self._held[-size:]) for stop in self.stops)), 0)

    def _release(self, size: int) -> str:
        shown, self._held = self._held[:size], self._held[size:]
        return shown
