"""Texts to look things up in, cut into passages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bottega.data import sources
from bottega.data.formats import records
from bottega.recipe import Source, located
from bottega.records import Text

WORDS = 120
"""Words of a passage, about; a paragraph that has fewer goes together with the next."""


def passages(paths: Sequence[str]) -> list[str]:
    """The texts of files, folders or datasets, in passages of whole paragraphs."""
    if not paths:
        return []
    given = [Source(path=located(path)) for path in paths]
    found = (record for _, rows in sources.rows(given) for record in records(rows, (Text,)))
    return [passage for record in found if isinstance(record, Text) for passage in cut(record.text)]


def cut(text: str) -> Iterator[str]:
    """Passages of a text: paragraphs together while they are short, a long one in pieces."""
    held: list[str] = []
    for paragraph in filter(None, map(str.strip, text.split("\n\n"))):
        words = paragraph.split()
        if held and sum(len(one.split()) for one in held) + len(words) > WORDS:
            yield "\n".join(held)
            held = []
        if len(words) > 2 * WORDS:
            yield from (" ".join(words[start : start + WORDS]) for start in range(0, len(words), WORDS))
        else:
            held.append(paragraph)
    if held:
        yield "\n".join(held)
