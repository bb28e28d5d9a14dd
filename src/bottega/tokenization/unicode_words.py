"""Words of a text in any writing system.

Combining marks stay with their letter. Scripts written without spaces (Chinese, Japanese, Thai and others) are taken
character by character: a dictionary would be needed to find their words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

# Unicode script names of scripts without spaces between words.
UNSPACED_SCRIPTS = (
    "Han Hiragana Katakana Bopomofo Thai Lao Khmer Myanmar Tai_Le New_Tai_Lue Tai_Tham Tai_Viet Javanese Balinese"
)

# The patterns below are for the `regex` module (V1), which has set operations and Unicode properties.
# The prolonged sound mark ー belongs to two Japanese scripts, and so to none by its property.
UNSPACED_LETTER = "[[{}ーｰ]--[{}]]".format(
    "".join(rf"\p{{{name}}}" for name in UNSPACED_SCRIPTS.split()), r"\p{P}\p{S}\p{Nd}"
)

# A letter of such a script with its combining marks.
UNSPACED_CHARACTER = rf"{UNSPACED_LETTER}[\p{{M}}\p{{Join_Control}}]*"

# A word of letters and digits of any other script.
SPACED_WORD = rf"[[\p{{L}}\p{{N}}]--{UNSPACED_LETTER}][[\p{{L}}\p{{N}}\p{{M}}\p{{Join_Control}}]--{UNSPACED_LETTER}]*"

SIGN = r"[^\s\p{L}\p{N}]\p{M}*"

# Signs as wide as a Chinese character, and the Tibetan marks that end syllables and sentences.
WIDE_SIGN = r"[[[\p{P}\p{S}]&&[\p{EA=W}\p{EA=F}\p{EA=H}]]\u0f0b\u0f0d]"

# Vowel points of Hebrew and Arabic, which most texts leave out, and the Arabic tatweel, which only widens a word.
IGNORED_MARKS = r"[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c7\u064b-\u0652\u0670\u0640]"

# Texts of Latin, Greek and Cyrillic letters without combining marks: Python's own `re` finds the same words in them, in
# a tenth of the time.
PLAIN_TEXT = re.compile(r"[\0-\u02ff\u0370-\u0482\u048a-\u052f\u1e00-\u1fff\u2010-\u206f\u20a0-\u20a8\u20aa-\u20bf]*")

PLAIN_WORD, PLAIN_WORD_OR_SIGN = re.compile(r"[^\W_]+"), re.compile(r"[^\W_]+|[^\w\s]|_")


def to_nfc(text: str) -> str:
    """Normalize a text to NFC: a letter and its accents are one character where Unicode has one."""
    return unicodedata.normalize("NFC", text)


def fold_text(text: str) -> str:
    """Normalize a text for search: without case, character width, vowel points, or the dots of a Turkish i."""
    # Twice: case folding may yield characters that NFKC changes again.
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return str(_compile(IGNORED_MARKS).sub("", plain.replace("i\u0307", "i").replace("ı", "i")))


def word_offsets(text: str, *, signs: bool = False) -> list[tuple[int, int]]:
    """Start and end character of each word; with `signs`, also of each sign between words."""
    if PLAIN_TEXT.fullmatch(text):
        pattern = PLAIN_WORD_OR_SIGN if signs else PLAIN_WORD
    else:
        pattern = _compile("|".join((UNSPACED_CHARACTER, SPACED_WORD, *([SIGN] if signs else []))))
    return [match.span() for match in pattern.finditer(text)]


def inner_positions(text: str) -> set[int]:
    """Positions inside words with combining marks, at which some tokenizers wrongly end a word."""
    if PLAIN_TEXT.fullmatch(text):
        return set()
    return {
        at
        for start, stop in word_offsets(text)
        if any(map(is_combining_mark, text[start:stop]))
        for at in range(start + 1, stop)
    }


def is_combining_mark(character: str) -> bool:
    """Whether a character is a mark on the letter before it."""
    return unicodedata.category(character)[0] == "M"


def split_words(text: str) -> list[str]:
    """The words of a text, unchanged."""
    return [text[start:stop] for start, stop in word_offsets(text)]


def add_spaces(text: str) -> str:
    """Put spaces around the characters of unspaced scripts and around wide signs."""
    return (
        text if PLAIN_TEXT.fullmatch(text) else str(_compile(f"{UNSPACED_CHARACTER}|{WIDE_SIGN}").sub(r" \g<0> ", text))
    )


def count_words(text: str) -> int:
    """Count the words of a text: what stands between spaces, or a character of an unspaced script."""
    return len(add_spaces(text).split())


def search_terms(text: str) -> list[str]:
    """The search terms of a text: its words, and pairs of adjacent characters of scripts without spaces."""
    return list(_search_terms(fold_text(text)))


def _search_terms(text: str) -> Iterator[str]:
    for match in _compile(f"((?:{UNSPACED_CHARACTER})+)|{SPACED_WORD}").finditer(text):
        characters = _compile(UNSPACED_CHARACTER).findall(match[1] or "")
        if len(characters) > 1:
            yield from (first + second for first, second in pairwise(characters))
        else:
            yield match[0]


@cache
def _compile(expression: str) -> Any:
    # Imported here: it takes a twentieth of a second, for which no command's --help should wait.
    import regex

    return regex.compile(expression, regex.VERSION1)
