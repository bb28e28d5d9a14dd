"""Reading CoNLL files: one token per line, a blank line between sentences, one row per sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from bottega.data.open_files import lines, opened
from bottega.errors import DataError
from bottega.recipe.schema import Layout
from bottega.records.fields import Column, Fields, InvalidRow, NumberedRows

TAG = re.compile(r"O|[BILESUM]-\S+")
# A longer sentence means that the file has no blank lines.
MOST = 100_000

# Number of lines from which a CoNLL file is recognized.
TRIED = 20


# (line number, columns) of each line.
Sentence = list[tuple[int, list[str]]]


def conll(path: Path, layout: Layout) -> NumberedRows:
    """Sentences: the first column is the token, the last its tag; or those `columns` calls tokens and tags."""
    first, last = _places(layout)
    unsure = not layout.columns
    with opened(path, layout.encoding, "\n") as file:
        for sentence in _sentences(path, lines(path, file), layout, last):
            if unsure and len(sentence) > 1:
                # Of the first alone: further down the tokens of a list may be 1 and 2.
                _refuse_numbers(path, sentence)
                unsure = False
            yield sentence[0][0], _row(path, sentence, first, last)


def _sentences(path: Path, numbered: Iterator[tuple[int, str]], layout: Layout, last: int) -> Iterator[Sentence]:
    """What stands between blank lines and starts of documents, without a header or comments before it."""
    sentence, header = Sentence(), bool(layout.header)
    for line, text in chain(numbered, [(0, "")]):
        if text.strip() and not text.startswith("-DOCSTART-"):
            columns = _columns(text, layout.delimiter)
            if header or (not sentence and _is_comment(columns, last)):
                header = False
                continue
            if len(sentence) == MOST:
                fix = "a blank line parts sentences: are there none?"
                raise DataError(f"a sentence of more than {MOST:,} tokens", where=f"{path} line {line - MOST}", fix=fix)
            sentence.append((line, columns))
        elif sentence:
            yield sentence
            sentence = []


def _row(path: Path, sentence: Sentence, first: int, last: int) -> Fields | DataError:
    tokens, tags = list[str](), Column(sentence[0][0])
    for line, columns in sentence:
        if len(columns) <= max(first, last, 1) or not columns[first] or not columns[last]:
            fix = "write token, tab, tag; a blank line parts sentences; blanks within a token need tabs"
            return InvalidRow("a token without a tag", where=f"{path} line {line}", fix=fix)
        tokens.append(columns[first])
        tags.append(columns[last])
    return {"tokens": tokens, "tags": tags}


def _refuse_numbers(path: Path, sentence: Sentence) -> None:
    """A DataError where the first column counts the tokens."""
    numbers = [columns[0] for _, columns in sentence if len(columns) > 2]
    if numbers == [str(number) for number in range(1, len(sentence) + 1)]:
        places = range(2, min(len(columns) for _, columns in sentence))
        tags = (place for place in places if all(TAG.fullmatch(columns[place]) for _, columns in sentence))
        tag = next(tags, places[-1])
        others = iter(f"other{number}" for number in range(1, len(places)))
        names = ["number", "tokens", *("tags" if place == tag else next(others) for place in places)]
        fix = f"name the columns, such as data.columns=[{', '.join(names)}]"
        raise DataError("the first column counts tokens and holds none", where=f"{path} line {sentence[0][0]}", fix=fix)


def _columns(text: str, delimiter: str | None = None) -> list[str]:
    """Columns are parted by tabs, or else by blanks: a no-break space belongs to its token."""
    text = text.strip(" \r\n")
    if delimiter is None and "\t" not in text:
        return re.split(" +", text)
    return [column.strip(" ") for column in text.rstrip("\t ").split(delimiter or "\t")]


def _places(layout: Layout) -> tuple[int, int]:
    """Where the token stands in a line, and its tag."""
    if not layout.columns:
        return 0, -1
    try:
        return layout.columns.index("tokens"), layout.columns.index("tags")
    except ValueError:
        fix = "name the two so: [tokens, pos, tags]"
        raise DataError("no columns called tokens and tags", where="data.columns", fix=fix) from None


def _is_comment(columns: list[str], last: int) -> bool:
    """A line before a sentence that tells of it: `# id 7 domain=en`."""
    return columns[0].startswith("#") and len(columns) > 1 and TAG.fullmatch(columns[last]) is None


def is_conll(path: Path, layout: Layout) -> bool:
    """Whether the first lines of a file each end in a tag."""
    with opened(path, layout.encoding, "\n") as file:
        kept = (text for text in islice(file, 10 * TRIED) if text.strip())
        told = (text for text in kept if not text.startswith(("-DOCSTART-", "# ")))
        tried = [_columns(text[:1000]) for text in islice(told, TRIED)]
    tagged = all(len(columns) > 1 and TAG.fullmatch(columns[-1]) for columns in tried)
    return tagged and len(tried) > 2
