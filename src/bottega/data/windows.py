"""Texts longer than a row, cut into windows: at other places in each pass over them.

Cut always at the same places, a token just behind a cut is predicted from the same few tokens in every epoch. On
tinyshakespeare at nanoGPT's settings moving the cuts is worth 0.04 nats.
"""

from __future__ import annotations

import numpy as np

from bottega.batch import Example, Ints, Row
from bottega.data.example_cache import ExampleCache
from bottega.objectives import Objective
from bottega.seeding import derive
from bottega.tokenization.codec import Codec


class Windows:
    """The examples of a shelf as each pass over them sees those that are windows of one text.

    A text of k windows has k in every pass. In pass 0 they begin at its first token, in another a number of tokens
    further on that is drawn from the seed, the text and the pass. The tokens before the first cut are a window too
    where this leaves the number as it is; otherwise, and they are fewer than the last window then has, they are left
    out of that pass.

    moving  False: every pass sees the windows of pass 0
    """

    def __init__(self, shelf: ExampleCache, objective: Objective, codec: Codec, seed: int, *, moving: bool) -> None:
        self.shelf, self.objective, self.codec, self.seed = shelf, objective, codec, seed
        self._sizes: dict[int, tuple[int, int]] = {}
        self.moving = moving and objective.splits and self._are_rebuilt()

    def example(self, index: int, turn: int) -> Example:
        """Example `index` of the shelf in pass `turn`."""
        found, bounds = self.shelf[index], self._bounds(index, turn)
        # A window may hold nothing to learn (marks alone): that example stays as it was first cut.
        row = None if bounds is None else self.objective.window(self._stretch(index, *bounds), self.codec)
        return found if row is None else Example(found.id, (row,), found.about)

    def tokens(self, index: int, turn: int) -> int:
        """About how many tokens that example has."""
        bounds = self._bounds(index, turn)
        if bounds is None:
            return int(self.shelf.tokens[index])
        first = self.shelf.siblings(index).start
        length, _ = self._lengths(index)
        return max(1, round(int(self.shelf.tokens[first]) * (bounds[1] - bounds[0]) / length))

    def _bounds(self, index: int, turn: int) -> tuple[int, int] | None:
        """First token of a window in its text, and the one after its last; None where it is as on the shelf."""
        windows = self.shelf.siblings(index)
        if not self.moving or turn == 0 or len(windows) == 1:
            return None
        length, last = self._lengths(index)
        shift = derive(self.seed, "windows", windows.start, turn) % length
        # With the tokens before the first cut the text has a window more, unless the last one falls away.
        number = index - windows.start - int(shift >= last)
        start, total = shift + number * length, (len(windows) - 1) * length + last
        return max(start, 0), min(start + length, total)

    def _lengths(self, index: int) -> tuple[int, int]:
        """Tokens of a text's first window and of its last."""
        windows = self.shelf.siblings(index)
        if windows.start not in self._sizes:
            first, last = (len(self._passage(place)) - self.objective.overlap for place in (windows[0], windows[-1]))
            self._sizes[windows.start] = (first, last)
        return self._sizes[windows.start]

    def _stretch(self, index: int, start: int, stop: int) -> Ints:
        """Tokens `start` to `stop` of the text that example `index` is of, and those that overlap with the next."""
        windows, (length, _), overlap = self.shelf.siblings(index), self._lengths(index), self.objective.overlap
        first, last = start // length, (stop - 1) // length
        parts = [self._passage(place)[:length] for place in windows[first:last]]
        whole = np.concatenate([*parts, self._passage(windows[last])])
        return whole[start - first * length : stop - first * length + overlap]

    def _passage(self, index: int) -> Ints:
        (row,) = self.shelf[index].rows
        return self.objective.passage(row, self.codec)

    def _are_rebuilt(self) -> bool:
        """Whether the objective makes of a window's own tokens what it made of the text: one of a user's may not."""
        place = next((place for place in range(len(self.shelf)) if len(self.shelf.siblings(place)) > 1), None)
        if place is None:
            return False
        (row,) = self.shelf[place].rows
        again = self.objective.window(self.objective.passage(row, self.codec), self.codec)
        return again is not None and _equal_rows(row, again)


def _equal_rows(one: Row, other: Row) -> bool:
    names = ("tokens", "at", "label", "weight", "source")
    alike = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
    return alike and one.both_ways == other.both_ways and not one.columns and not other.columns
