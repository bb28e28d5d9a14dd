"""Reading CoNLL files: one token per line, a blank line between sentences, one row per sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from bottega.data.open_files import lines, open_text
from bottega.errors import DataError
from bottega.recipe.schema import Layout
from bottega.records.fields import Column, Fields, InvalidRow, NumberedRows

TAG = re.compile(r"O|[BILESUM]-\S+")
# A longer sentence means that the file has no blank lines.
MAX_SENTENCE_TOKENS = 100_000
# Number of lines from which a CoNLL file is recognized.
MAX_TESTED_LINES = 20


# (line number, columns) of each line.
Sentence = list[tuple[int, list[str]]]


def conll(path: Path, layout: Layout) -> NumberedRows:
    """One row per sentence. The first column is the token, the last its tag, unless `columns` names them."""
    first, last = _column_positions(layout)
    check_numbers = not layout.columns
    with open_text(path, layout.encoding, "\n") as file:
        for sentence in _sentences(path, lines(path, file), layout, last):
            if check_numbers and len(sentence) > 1:
                # Only in the first sentence: later ones may have the tokens 1 and 2, as in a list.
                _refuse_numbers(path, sentence)
                check_numbers = False
            yield sentence[0][0], _parse_sentence(path, sentence, first, last)


def _sentences(path: Path, numbered_lines: Iterator[tuple[int, str]], layout: Layout, last: int) -> Iterator[Sentence]:
    """Lines between blank lines and document markers, without a header and without comments before a sentence."""
    sentence, header = Sentence(), bool(layout.header)
    # The added blank line ends the last sentence.
    for line, text in chain(numbered_lines, [(0, "")]):
        if text.strip() and not text.startswith("-DOCSTART-"):
            columns = _split_columns(text, layout.delimiter)
            if header or (not sentence and _is_comment(columns, last)):
                header = False
                continue
            if len(sentence) == MAX_SENTENCE_TOKENS:
                fix = "separate sentences by blank lines"
                raise DataError(
                    f"a sentence of more than {MAX_SENTENCE_TOKENS:,} tokens",
                    where=f"{path} line {line - MAX_SENTENCE_TOKENS}",
                    fix=fix,
                )
            sentence.append((line, columns))
        elif sentence:
            yield sentence
            sentence = []


def _parse_sentence(path: Path, sentence: Sentence, first: int, last: int) -> Fields | DataError:
    tokens, tags = list[str](), Column(sentence[0][0])
    for line, columns in sentence:
        if len(columns) <= max(first, last, 1) or not columns[first] or not columns[last]:
            fix = "write token, tab, tag; a blank line between sentences; tokens that contain spaces need tabs"
            return InvalidRow("a token without a tag", where=f"{path} line {line}", fix=fix)
        tokens.append(columns[first])
        tags.append(columns[last])
    return {"tokens": tokens, "tags": tags}


def _refuse_numbers(path: Path, sentence: Sentence) -> None:
    """Raise a DataError if the first column numbers the tokens, as in CoNLL-U; the fix suggests column names."""
    numbers = [columns[0] for _, columns in sentence if len(columns) > 2]
    if numbers == [str(number) for number in range(1, len(sentence) + 1)]:
        candidates = range(2, min(len(columns) for _, columns in sentence))
        with_tags = (column for column in candidates if all(TAG.fullmatch(columns[column]) for _, columns in sentence))
        tag_column = next(with_tags, candidates[-1])
        others = iter(f"other{number}" for number in range(1, len(candidates)))
        names = ["number", "tokens", *("tags" if column == tag_column else next(others) for column in candidates)]
        fix = f"name the columns, such as data.columns=[{', '.join(names)}]"
        raise DataError("the first column numbers the tokens", where=f"{path} line {sentence[0][0]}", fix=fix)


def _split_columns(text: str, delimiter: str | None = None) -> list[str]:
    """The columns of a line: separated by tabs, or by spaces if there is no tab."""
    # Not `split()`: a no-break space belongs to its token.
    text = text.strip(" \r\n")
    if delimiter is None and "\t" not in text:
        return re.split(" +", text)
    return [column.strip(" ") for column in text.rstrip("\t ").split(delimiter or "\t")]


def _column_positions(layout: Layout) -> tuple[int, int]:
    """(column of the token, column of its tag)."""
    if not layout.columns:
        return 0, -1
    try:
        return layout.columns.index("tokens"), layout.columns.index("tags")
    except ValueError:
        fix = "name both, as in [tokens, pos, tags]"
        raise DataError("no columns called tokens and tags", where="data.columns", fix=fix) from None


def _is_comment(columns: list[str], last: int) -> bool:
    """Whether a line before a sentence is a comment: `# id 7 domain=en`."""
    return columns[0].startswith("#") and len(columns) > 1 and TAG.fullmatch(columns[last]) is None


def is_conll(path: Path, layout: Layout) -> bool:
    """Whether the first lines of a file each end in a tag."""
    with open_text(path, layout.encoding, "\n") as file:
        filled = (text for text in islice(file, 10 * MAX_TESTED_LINES) if text.strip())
        token_lines = (text for text in filled if not text.startswith(("-DOCSTART-", "# ")))
        tested = [_split_columns(text[:1000]) for text in islice(token_lines, MAX_TESTED_LINES)]
    tagged = all(len(columns) > 1 and TAG.fullmatch(columns[-1]) for columns in tested)
    return tagged and len(tested) > 2
