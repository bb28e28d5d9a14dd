"""Numeric match: the last number of an answer, as GSM8K is scored (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Any, ClassVar

from bottega.metrics.answers import Metric

# Only where nothing stands before it: the dash of "10-12" is not a sign.
SIGN = r"(?<![\p{L}\p{N}\p{M})\]])[-+\u2212\ufe63\uff0d\u2013]\p{Sc}?"

POINT, COMMA, SPACE = r"[.\u066b\uff0e]", r"[,\u066c\uff0c]", "[\u00a0\u2009\u202f'’]"

# Groups of three digits in any script, with a point or a comma before the decimals. "1,2,3" and "2 4 123" are three
# numbers each. What could be read in two ways is read as in English: 1,234 is over a thousand, and 1.234 is less than
# two. The first alternative that matches wins.
DIGITS = "|".join(
    (
        rf"(?!0)(?<!\d )\d{{1,3}}( \d{{3}})+(?! ?\d)(?:(?:{POINT}|{COMMA})(?<part>\d+))?",
        rf"(?!0)\d{{1,3}}({SPACE}\d{{3}})+(?!\d)(?:(?:{POINT}|{COMMA})(?<part>\d+))?",
        rf"(?!0)\d{{1,3}}({COMMA}\d{{3}})+(?!\d)(?:{POINT}(?<part>\d+))?",
        rf"(?!0)\d{{1,2}}({COMMA}\d\d)+{COMMA}\d{{3}}(?!\d)(?:{POINT}(?<part>\d+))?",  # as in India
        rf"(?!0)\d{{1,3}}({POINT}\d{{3}})+{COMMA}(?<part>\d+)(?![\d,])",
        rf"(?!0)\d{{1,3}}({POINT}\d{{3}}){{2,}}(?!\d)",
        rf"\d+{POINT}(?<part>\d+)",
        rf"(?<!\d,)\d+{COMMA}(?<part>\d+)(?![\d,])",
        rf"\d+{POINT}?",
        rf"{POINT}(?<part>\d+)",
    )
)

NUMBER = rf"(?<sign>{SIGN})?(?<body>{DIGITS})(?:[eE](?<power>[-+]?\d{{1,3}})(?!\w))?"
# Precedes the final answer in GSM8K.
FINAL_ANSWER = "####"


class Numeric(Metric):
    name: ClassVar[str] = "numeric_match"
    binary: ClassVar[bool] = True

    def applies_to(self, answers: Sequence[str]) -> bool:
        """Whether every reference is a number, or ends in one after `####`."""
        alone = _pattern().fullmatch
        ends = all(FINAL_ANSWER in answer or alone(answer.strip()) for answer in answers)
        return ends and all(final_number(answer) is not None for answer in answers)

    def sums(self, answer: str, references: Sequence[str]) -> Sequence[float]:
        number = final_number(answer)
        matches = number is not None and any(number == final_number(reference) for reference in references)
        return float(matches), 1.0


def final_number(text: str) -> Decimal | None:
    """The last number after the last `####`, or else the last of the text; None where there is none."""
    for part in (text.rpartition(FINAL_ANSWER)[2], text):
        if matches := list(_pattern().finditer(part)):
            return _parse_match(matches[-1])
    return None


def _parse_match(match: Any) -> Decimal:
    # Decimal, not float: numbers of 400 digits would all be infinite, and so equal.
    part = match["part"] or ""
    whole = "".join(filter(str.isdecimal, match["body"].removesuffix(part)))
    sign = "-" if (match["sign"] or "+")[0] != "+" else ""
    return Decimal(f"{sign}{whole or 0}.{part or 0}E{match['power'] or 0}")


@cache
def _pattern() -> Any:
    import regex

    return regex.compile(NUMBER, regex.VERSION1)
