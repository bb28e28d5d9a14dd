"""A tagger without a model, which marks the entities of the training rows again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from bottega.records import Entity, Tagged
from bottega.tokenization import unicode_words


class Gazetteer:
    """Known entities by their words, each with its most frequent label."""

    def __init__(self, records: Iterable[Tagged]) -> None:
        # Words without case, so that a name at the start of a sentence is found elsewhere.
        seen: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for record in records:
            for span in record.spans:
                seen[tuple(_normalized_words(record.text[span.start : span.stop]))][span.label] += 1
        self._labels = {words: counts.most_common(1)[0][0] for words, counts in seen.items()}
        self._longest = max(map(len, self._labels), default=0)

    def spans(self, text: str) -> Iterator[Entity]:
        """The known entities in a text, from left to right, the longest at each word."""
        offsets, words, start = unicode_words.word_offsets(text, signs=True), _normalized_words(text), 0
        while start < len(words):
            sizes = range(min(self._longest, len(words) - start), 0, -1)
            size = next((size for size in sizes if tuple(words[start : start + size]) in self._labels), 0)
            if size:
                label = self._labels[tuple(words[start : start + size])]
                yield Entity(offsets[start][0], offsets[start + size - 1][1], label)
            # Entities do not overlap.
            start += size or 1


def _normalized_words(text: str) -> list[str]:
    return [
        unicode_words.to_nfc(text[start:stop]).lower() for start, stop in unicode_words.word_offsets(text, signs=True)
    ]
