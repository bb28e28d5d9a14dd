"""What a word is, whatever the writing system: combining marks stay with their letter, and scripts that are written
without spaces (Chinese, Japanese, Thai and others) are taken character by character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

UNSPACED_SCRIPTS = (
    "Han Hiragana Katakana Bopomofo Thai Lao Khmer Myanmar Tai_Le New_Tai_Lue Tai_Tham Tai_Viet Javanese Balinese"
)
"""Scripts without spaces between words."""

UNSPACED_LETTER = "[[{}ーｰ]--[{}]]".format(
    "".join(rf"\p{{{name}}}" for name in UNSPACED_SCRIPTS.split()), r"\p{P}\p{S}\p{Nd}"
)
"""Their letters; the mark of a long vowel belongs to two Japanese scripts and so to none."""

UNSPACED_CHARACTER = rf"{UNSPACED_LETTER}[\p{{M}}\p{{Join_Control}}]*"
"""One of them with its marks."""

SPACED_WORD = rf"[[\p{{L}}\p{{N}}]--{UNSPACED_LETTER}][[\p{{L}}\p{{N}}\p{{M}}\p{{Join_Control}}]--{UNSPACED_LETTER}]*"
"""A word of letters and digits of any other script."""

SIGN = r"[^\s\p{L}\p{N}]\p{M}*"
WIDE_SIGN = r"[[[\p{P}\p{S}]&&[\p{EA=W}\p{EA=F}\p{EA=H}]]\u0f0b\u0f0d]"
"""Signs as wide as a Chinese character, and those by which Tibetan parts syllables and sentences."""

IGNORED_MARKS = r"[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c7\u064b-\u0652\u0670\u0640]"
"""Vowel points of Hebrew and Arabic, which most texts leave out, and the stroke that only widens a word."""

PLAIN_TEXT = re.compile(r"[\0-\u02ff\u0370-\u0482\u048a-\u052f\u1e00-\u1fff\u2010-\u206f\u20a0-\u20a8\u20aa-\u20bf]*")
"""Texts of Latin, Greek and Cyrillic letters without marks by themselves: Python's own words, which take a tenth."""

PLAIN_WORD, PLAIN_WORD_OR_SIGN = re.compile(r"[^\W_]+"), re.compile(r"[^\W_]+|[^\w\s]|_")


def to_nfc(text: str) -> str:
    """The text with each letter and its accents as one character, where there is such a one (NFC)."""
    return unicodedata.normalize("NFC", text)


def fold_text(text: str) -> str:
    """The text as it is looked for: without case, width of characters, vowel points, or the dots of a Turkish i."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return str(_compile(IGNORED_MARKS).sub("", plain.replace("i\u0307", "i").replace("ı", "i")))


def word_offsets(text: str, *, signs: bool = False) -> list[tuple[int, int]]:
    """Where each word starts and stops; with `signs` also each sign between words."""
    if PLAIN_TEXT.fullmatch(text):
        pattern = PLAIN_WORD_OR_SIGN if signs else PLAIN_WORD
    else:
        pattern = _compile("|".join((UNSPACED_CHARACTER, SPACED_WORD, *([SIGN] if signs else []))))
    return [found.span() for found in pattern.finditer(text)]


def inner_positions(text: str) -> set[int]:
    """The characters within words that have marks by themselves, which some tokenizers take for ends of words."""
    if PLAIN_TEXT.fullmatch(text):
        return set()
    return {
        at
        for start, stop in word_offsets(text)
        if any(map(is_combining_mark, text[start:stop]))
        for at in range(start + 1, stop)
    }


def is_combining_mark(character: str) -> bool:
    """Whether it belongs to the letter before it."""
    return unicodedata.category(character)[0] == "M"


def split_words(text: str) -> list[str]:
    """The words of a text, as they stand."""
    return [text[start:stop] for start, stop in word_offsets(text)]


def add_spaces(text: str) -> str:
    """The text with spaces around what is a word or a sign without any."""
    return (
        text if PLAIN_TEXT.fullmatch(text) else str(_compile(f"{UNSPACED_CHARACTER}|{WIDE_SIGN}").sub(r" \g<0> ", text))
    )


def count_words(text: str) -> int:
    """How many words a text has, what stands between two spaces taken for one."""
    return len(add_spaces(text).split())


def search_terms(text: str) -> list[str]:
    """What a text is looked up by: its words, and of scripts without spaces each two characters side by side."""
    return list(_search_terms(fold_text(text)))


def _search_terms(text: str) -> Iterator[str]:
    for found in _compile(f"((?:{UNSPACED_CHARACTER})+)|{SPACED_WORD}").finditer(text):
        characters = _compile(UNSPACED_CHARACTER).findall(found[1] or "")
        if len(characters) > 1:
            yield from (one + other for one, other in pairwise(characters))
        else:
            yield found[0]


@cache
def _compile(expression: str) -> Any:
    import regex  # takes a twentieth of a second, which no help text should wait for

    return regex.compile(expression, regex.VERSION1)
