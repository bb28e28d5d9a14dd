"""Texts to look things up in, cut into passages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bottega.data import sources
from bottega.data.formats import records
from bottega.recipe.files import resolve_source_path
from bottega.recipe.schema import Source
from bottega.records import Text
from bottega.tokenization.unicode_words import counted, places

WORDS_PER_PASSAGE = 120
"""Words of a passage, about; a paragraph that has fewer goes together with the next. Of scripts without spaces,
characters."""


def load_passages(paths: Sequence[str]) -> list[str]:
    """The texts of files, folders or datasets, in passages of whole paragraphs."""
    if not paths:
        return []
    given = [Source(path=resolve_source_path(path)) for path in paths]
    found = (record for _, rows in sources.rows(given) for record in records(rows, (Text,)))
    return [passage for record in found if isinstance(record, Text) for passage in split_passages(record.text)]


def split_passages(text: str) -> Iterator[str]:
    """Passages of a text: paragraphs together while they are short, a long one in pieces."""
    held: list[str] = []
    for paragraph in filter(None, map(str.strip, text.split("\n\n"))):
        size = counted(paragraph)
        if held and sum(map(counted, held)) + size > WORDS_PER_PASSAGE:
            yield "\n".join(held)
            held = []
        if size > 2 * WORDS_PER_PASSAGE:
            yield from _split_paragraph(paragraph)
        else:
            held.append(paragraph)
    if held:
        yield "\n".join(held)


def _split_paragraph(paragraph: str) -> Iterator[str]:
    """A long paragraph in parts of so many words."""
    part, size = list[str](), 0
    for piece in (piece for word in paragraph.split() for piece in _split_word(word)):
        more = counted(piece)
        if part and size + more > WORDS_PER_PASSAGE:
            yield " ".join(part)
            part, size = [], 0
        part.append(piece)
        size += more
    yield " ".join(part)


def _split_word(text: str) -> Iterator[str]:
    """What stands between two spaces, in pieces where it is a text by itself."""
    if counted(text) <= WORDS_PER_PASSAGE:
        yield text
        return
    starts = [start for start, _ in places(text, signs=True)][::WORDS_PER_PASSAGE]
    yield from (text[start:stop] for start, stop in zip(starts, [*starts[1:], len(text)], strict=True))
