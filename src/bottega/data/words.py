"""Words of a text as a reader sees them, and what may be said of them without a model."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from bottega.records import Entity, Tagged

WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[tuple[int, int]]:
    """Where each word, or sign between words, starts and stops."""
    return [found.span() for found in WORD.finditer(text)]


def as_conll(text: str, spans: Iterable[Entity]) -> str:
    """A line for each word, with its tag by the scheme BIO."""
    tags = dict[tuple[int, int], str]()
    for span in spans:
        inside = [place for place in words(text) if place[0] < span.stop and place[1] > span.start]
        tags |= {place: f"{'I' if number else 'B'}-{span.label}" for number, place in enumerate(inside)}
    return "\n".join(f"{text[start:stop]}\t{tags.get((start, stop), 'O')}" for start, stop in words(text))


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
        places, names, at = words(text), _shown(text), 0
        while at < len(places):
            sizes = range(min(self._longest, len(places) - at), 0, -1)
            size = next((size for size in sizes if tuple(names[at : at + size]) in self._labels), 0)
            if size:
                label = self._labels[tuple(names[at : at + size])]
                yield Entity(places[at][0], places[at + size - 1][1], label)
            at += size or 1


def _shown(text: str) -> list[str]:
    return [text[start:stop].lower() for start, stop in words(text)]
