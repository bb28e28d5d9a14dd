"""CoNLL's columns → rows: a token a line, and a blank line between sentences."""

from __future__ import annotations

import re
from itertools import chain, islice
from pathlib import Path

from bottega.data.fields import Column, Rows, Unsound
from bottega.data.opening import lines, opened
from bottega.errors import DataError
from bottega.recipe import Layout

TAG = re.compile(r"O|[BILESUM]-\S+")
MOST = 100_000
"""Tokens of a sentence; more of them are a file without blank lines."""

TRIED = 20
"""Lines by which a file is recognised."""


def conll(path: Path, layout: Layout) -> Rows:
    """Sentences: the first column is the token, the last its tag; or those `columns` calls tokens and tags."""
    first, last = _places(layout)
    tokens, tags, start, lost = list[str](), Column(1), 1, 0
    with opened(path, layout.encoding, "\n") as file:
        for line, text in chain(lines(path, file), [(0, "")]):
            columns = _columns(text, layout.delimiter)
            if text.strip() and not text.startswith("-DOCSTART-"):
                if not tokens and _is_comment(columns, last):
                    continue
                start = start if tokens else line
                tags = tags if tokens else Column(line)
                lost = lost if tokens else 0
                whole = len(columns) > max(first, last, 1) and columns[first] and columns[last]
                lost = lost or (0 if whole else line)
                if len(tokens) == MOST:
                    fix = "a blank line parts sentences: are there none?"
                    raise DataError(f"a sentence of more than {MOST:,} tokens", where=f"{path} line {start}", fix=fix)
                tokens.append(columns[first] if whole else "")
                tags.append(columns[last] if whole else "")
            elif tokens:  # a blank line, the start of a document, or the end of the file
                yield start, _without_tag(path, lost) if lost else {"tokens": tokens, "tags": tags}
                tokens = []


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


def _without_tag(path: Path, line: int) -> DataError:
    fix = "write token, tab, tag; a blank line parts sentences; blanks within a token need tabs"
    return Unsound("a token without a tag", where=f"{path} line {line}", fix=fix)


def is_conll(path: Path, layout: Layout) -> bool:
    """Whether the first lines of a file each end in a tag."""
    with opened(path, layout.encoding, "\n") as file:
        kept = (text for text in islice(file, 10 * TRIED) if text.strip())
        lines = (text for text in kept if not text.startswith(("-DOCSTART-", "# ")))
        tried = [_columns(text[:1000]) for text in islice(lines, TRIED)]
    tagged = all(len(columns) > 1 and TAG.fullmatch(columns[-1]) for columns in tried)
    return tagged and len(tried) > 2
