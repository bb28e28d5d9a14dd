"""Tagged entities written in the CoNLL format: a word and its tag a line."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from bottega.records import Entity
from bottega.tokenization import unicode_words


def to_conll(text: str, spans: Iterable[Entity], words: Sequence[tuple[int, int]] | None = None) -> str:
    """A line for each word with its tag in the BIO scheme, separated by a tab.

    words  start and end character of each word; by default the words and signs of the text
    """
    spans = sorted(spans)
    words = unicode_words.word_offsets(text, signs=True) if words is None else words
    cuts = {cut for span in spans for cut in (span.start, span.stop)}
    lines, previous = list[str](), -1
    # A span may begin or end inside a word: the word is split there, since a line has one tag.
    for start, stop in _split_words(words, cuts):
        # The last span that begins at or before the word.
        index = bisect_right(spans, start, key=lambda span: span.start) - 1
        inside = index >= 0 and start < spans[index].stop
        tag = f"{'I' if index == previous else 'B'}-{spans[index].label}" if inside else "O"
        previous = index if inside else -1
        lines.append(f"{text[start:stop]}\t{tag}")
    return "\n".join(lines)


def _split_words(words: Iterable[tuple[int, int]], cuts: set[int]) -> Iterator[tuple[int, int]]:
    for start, stop in words:
        yield from pairwise([start, *(cut for cut in range(start + 1, stop) if cut in cuts), stop])
