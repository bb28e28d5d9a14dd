"""Words of a text as a reader sees them, and what may be said of them without a model."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from bottega import scripts
from bottega.records import Entity, Tagged


def as_conll(text: str, spans: Iterable[Entity], places: Sequence[tuple[int, int]] | None = None) -> str:
    """A line for each word, with its tag by the scheme BIO; a word of which a span is a part is cut at its ends.

    places  where the words stand; by default the words and signs of the text
    """
    spans = sorted(spans)
    places = scripts.places(text, signs=True) if places is None else places
    cuts = {cut for span in spans for cut in (span.start, span.stop)}
    lines, open_ = list[str](), -1
    for start, stop in _cut(places, cuts):
        number = bisect_right(spans, start, key=lambda span: span.start) - 1
        inside = number >= 0 and start < spans[number].stop
        tag = f"{'I' if number == open_ else 'B'}-{spans[number].label}" if inside else "O"
        open_ = number if inside else -1
        lines.append(f"{text[start:stop]}\t{tag}")
    return "\n".join(lines)


def _cut(places: Iterable[tuple[int, int]], cuts: set[int]) -> Iterator[tuple[int, int]]:
    for start, stop in places:
        yield from pairwise([start, *(cut for cut in range(start + 1, stop) if cut in cuts), stop])


class Gazetteer:
    """Marks again what was marked before, wherever it stands: the least a tagger must beat."""

    def __init__(self, records: Iterable[Tagged]) -> None:
        seen: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for record in records:
            for span in record.spans:
                seen[tuple(_shown(record.text[span.start : span.stop]))][span.label] += 1
        self._labels = {name: counts.most_common(1)[0][0] for name, counts in seen.items()}
        self._longest = max(map(len, self._labels), default=0)

    def spans(self, text: str) -> Iterator[Entity]:
        """The entities of a text, the longest at each place."""
        places, names, at = scripts.places(text, signs=True), _shown(text), 0
        while at < len(places):
            sizes = range(min(self._longest, len(places) - at), 0, -1)
            size = next((size for size in sizes if tuple(names[at : at + size]) in self._labels), 0)
            if size:
                label = self._labels[tuple(names[at : at + size])]
                yield Entity(places[at][0], places[at + size - 1][1], label)
            at += size or 1


def _shown(text: str) -> list[str]:
    return [scripts.composed(text[start:stop]).lower() for start, stop in scripts.places(text, signs=True)]
