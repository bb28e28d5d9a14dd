"""Moving windows: texts longer than a row are cut at different positions in each pass over them.

With fixed cuts, a token just after a cut would be predicted from the same few tokens in every epoch. On tinyshakespeare
with nanoGPT's settings, moving the cuts lowers the loss by 0.04 nats.
"""

from __future__ import annotations

import numpy as np

from bottega.batch import Example, Ints, Row
from bottega.data.example_cache import ExampleCache
from bottega.objectives import Objective
from bottega.seeding import derive
from bottega.tokenization.codec import Codec


class Windows:
    """The examples of a cache, with the windows of long texts shifted in each pass.

    A text of k windows has k windows in every pass. In pass 0 the first window begins at the first token; in any other
    pass at an offset derived from the seed, the text and the pass. The tokens before that offset form a window of their
    own if the number of windows stays k; otherwise (they are then fewer than the last window has) this pass omits them.

    moving  if false, every pass sees the windows of pass 0
    """

    def __init__(self, cache: ExampleCache, objective: Objective, codec: Codec, seed: int, *, moving: bool) -> None:
        self.cache, self.objective, self.codec, self.seed = cache, objective, codec, seed
        self._sizes: dict[int, tuple[int, int]] = {}
        self.moving = moving and objective.can_split and self._can_rebuild()

    def example(self, index: int, turn: int) -> Example:
        """Example `index` of the cache in pass `turn`."""
        unshifted, bounds = self.cache[index], self._bounds(index, turn)
        # A window of special tokens only has nothing to learn: the example of pass 0 takes its place.
        row = None if bounds is None else self.objective.window_row(self._window_ids(index, *bounds), self.codec)
        return unshifted if row is None else Example(unshifted.id, (row,), unshifted.about)

    def tokens(self, index: int, turn: int) -> int:
        """Approximate number of tokens of example `index` in pass `turn`; exact in pass 0."""
        bounds = self._bounds(index, turn)
        if bounds is None:
            return self.cache.tokens_of(index)
        first = self.cache.siblings(index).start
        length, _ = self._lengths(index)
        return max(1, round(self.cache.tokens_of(first) * (bounds[1] - bounds[0]) / length))

    def _bounds(self, index: int, turn: int) -> tuple[int, int] | None:
        """(first token, token after the last) of a window in its text; None if it is the same as in pass 0."""
        if not self.moving or turn == 0:
            return None
        windows = self.cache.siblings(index)
        if len(windows) == 1:
            return None
        length, last = self._lengths(index)
        shift = derive(self.seed, "windows", windows.start, turn) % length
        # The tokens before the first cut add a window, unless the shift leaves no tokens for the last one.
        number = index - windows.start - int(shift >= last)
        start, total = shift + number * length, (len(windows) - 1) * length + last
        return max(start, 0), min(start + length, total)

    def _lengths(self, index: int) -> tuple[int, int]:
        """(length of the first window of a text, length of its last), in tokens without the overlap."""
        windows = self.cache.siblings(index)
        if windows.start not in self._sizes:
            first, last = (len(self._ids(end)) - self.objective.overlap for end in (windows[0], windows[-1]))
            self._sizes[windows.start] = (first, last)
        return self._sizes[windows.start]

    def _window_ids(self, index: int, start: int, stop: int) -> Ints:
        """Tokens `start` to `stop` of the text of example `index`, plus the overlap with the next window."""
        windows, (length, _), overlap = self.cache.siblings(index), self._lengths(index), self.objective.overlap
        first, last = start // length, (stop - 1) // length
        parts = [self._ids(window)[:length] for window in windows[first:last]]
        whole = np.concatenate([*parts, self._ids(windows[last])])
        return whole[start - first * length : stop - first * length + overlap]

    def _ids(self, index: int) -> Ints:
        """The tokens of a window in pass 0, with the overlap."""
        (row,) = self.cache[index].rows
        return self.objective.window_tokens(row, self.codec)

    def _can_rebuild(self) -> bool:
        """Whether the objective rebuilds a window from its own tokens; a user-defined objective may not."""
        index = next((index for index in range(len(self.cache)) if len(self.cache.siblings(index)) > 1), None)
        if index is None:
            return False
        (row,) = self.cache[index].rows
        rebuilt = self.objective.window_row(self.objective.window_tokens(row, self.codec), self.codec)
        return rebuilt is not None and _equal_rows(row, rebuilt)


def _equal_rows(left: Row, right: Row) -> bool:
    names = ("tokens", "at", "label", "weight", "source")
    equal = all(np.array_equal(getattr(left, name), getattr(right, name)) for name in names)
    return equal and left.both_ways == right.both_ways and not left.columns and not right.columns
