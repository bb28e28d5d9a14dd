"""Words of a text as a reader sees them, and what may be said of them without a model."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from bottega.records import Entity
from bottega.tokenization import unicode_words


def to_conll(text: str, spans: Iterable[Entity], places: Sequence[tuple[int, int]] | None = None) -> str:
    """A line for each word, with its tag by the scheme BIO; a word of which a span is a part is cut at its ends.

    places  where the words stand; by default the words and signs of the text
    """
    spans = sorted(spans)
    places = unicode_words.word_offsets(text, signs=True) if places is None else places
    cuts = {cut for span in spans for cut in (span.start, span.stop)}
    lines, open_ = list[str](), -1
    for start, stop in _split_words(places, cuts):
        number = bisect_right(spans, start, key=lambda span: span.start) - 1
        inside = number >= 0 and start < spans[number].stop
        tag = f"{'I' if number == open_ else 'B'}-{spans[number].label}" if inside else "O"
        open_ = number if inside else -1
        lines.append(f"{text[start:stop]}\t{tag}")
    return "\n".join(lines)


def _split_words(places: Iterable[tuple[int, int]], cuts: set[int]) -> Iterator[tuple[int, int]]:
    for start, stop in places:
        yield from pairwise([start, *(cut for cut in range(start + 1, stop) if cut in cuts), stop])
