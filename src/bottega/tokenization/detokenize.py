"""Tokens → text as they come: no character is ever split, and nothing after a stop string is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

REPLACEMENT_CHARACTER = "\ufffd"
"""What decoders write for bytes that are no character yet."""


class TextStream:
    """The text each token adds; a character spread over several tokens comes with the last of them.

    special  show special tokens too
    after    tokens the text goes on from, which are not shown
    """

    def __init__(self, tokenizer: Any, *, special: bool = False, after: Sequence[int] = ()) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._ids = list(after)
        # Decoded from the piece before, so that a tokenizer which strips a leading space keeps it.
        self._window, self._shown = 0, len(self._ids)
        self._before = self._decode(0, self._shown)

    def push(self, token: int) -> str:
        """What can be shown once `token` is there; empty while a character is incomplete."""
        self._ids.append(token)
        text = self._decode(self._window, len(self._ids))
        return "" if text.endswith(REPLACEMENT_CHARACTER) else self._advance(text)

    def hold(self, token: int) -> None:
        """Take a token whose text is not asked for yet: it comes with what is shown next."""
        self._ids.append(token)

    def end(self) -> str:
        """What was held back, however incomplete."""
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
    """Lets text through until one of `stops` is complete; what may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.met = False

    def push(self, text: str) -> str:
        """What can be shown; once a stop string is met, nothing more."""
        if self.met:
            return ""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.met = True
            return self._let(min(places))
        return self._let(len(self._held) - self._beginning())

    def end(self) -> str:
        """What was held back, when no more text comes."""
        return "" if self.met else self._let(len(self._held))

    def _beginning(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        sizes = range(min(longest, len(self._held)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(self._held[-size:]) for stop in self._stops)), 0)

    def _let(self, size: int) -> str:
        shown, self._held = self._held[:size], self._held[size:]
        return shown
