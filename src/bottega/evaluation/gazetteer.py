"""A tagger without a model: marks again what was marked in the training rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from bottega.records import Entity, Tagged
from bottega.tokenization import unicode_words


class Gazetteer:
    """Marks again what was marked before, wherever it stands: the least a tagger must beat."""

    def __init__(self, records: Iterable[Tagged]) -> None:
        seen: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for record in records:
            for span in record.spans:
                seen[tuple(_normalized_words(record.text[span.start : span.stop]))][span.label] += 1
        self._labels = {name: counts.most_common(1)[0][0] for name, counts in seen.items()}
        self._longest = max(map(len, self._labels), default=0)

    def spans(self, text: str) -> Iterator[Entity]:
        """The entities of a text, the longest at each place."""
        places, names, at = unicode_words.places(text, signs=True), _normalized_words(text), 0
        while at < len(places):
            sizes = range(min(self._longest, len(places) - at), 0, -1)
            size = next((size for size in sizes if tuple(names[at : at + size]) in self._labels), 0)
            if size:
                label = self._labels[tuple(names[at : at + size])]
                yield Entity(places[at][0], places[at + size - 1][1], label)
            at += size or 1


def _normalized_words(text: str) -> list[str]:
    return [unicode_words.composed(text[start:stop]).lower() for start, stop in unicode_words.places(text, signs=True)]
