"""Texts cut into passages, which the baseline `retrieval` searches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bottega.data.reader import read_records
from bottega.recipe.files import resolve_source_path
from bottega.recipe.schema import Source
from bottega.records import Text
from bottega.tokenization.unicode_words import count_words, word_offsets

# The usual length of passages in open-domain question answering. In scripts without spaces a character is a word.
WORDS_PER_PASSAGE = 120


def load_passages(paths: Sequence[str]) -> list[str]:
    """The passages of files, folders or datasets."""
    if not paths:
        return []
    records = read_records([Source(path=resolve_source_path(path)) for path in paths], (Text,))
    return [passage for _, record in records if isinstance(record, Text) for passage in split_passages(record.text)]


def split_passages(text: str) -> Iterator[str]:
    """The passages of a text: short paragraphs joined, a long paragraph split."""
    joined: list[str] = []
    for paragraph in filter(None, map(str.strip, text.split("\n\n"))):
        size = count_words(paragraph)
        if joined and sum(map(count_words, joined)) + size > WORDS_PER_PASSAGE:
            yield "\n".join(joined)
            joined = []
        # A paragraph somewhat too long stays whole: its sentences explain each other.
        if size > 2 * WORDS_PER_PASSAGE:
            yield from _split_paragraph(paragraph)
        else:
            joined.append(paragraph)
    if joined:
        yield "\n".join(joined)


def _split_paragraph(paragraph: str) -> Iterator[str]:
    part, size = list[str](), 0
    for piece in (piece for word in paragraph.split() for piece in _split_word(word)):
        words = count_words(piece)
        if part and size + words > WORDS_PER_PASSAGE:
            yield " ".join(part)
            part, size = [], 0
        part.append(piece)
        size += words
    yield " ".join(part)


def _split_word(text: str) -> Iterator[str]:
    """The text between two spaces, in pieces where it is long, as Chinese text is."""
    if count_words(text) <= WORDS_PER_PASSAGE:
        yield text
        return
    starts = [start for start, _ in word_offsets(text, signs=True)][::WORDS_PER_PASSAGE]
    yield from (text[start:stop] for start, stop in zip(starts, [*starts[1:], len(text)], strict=True))
