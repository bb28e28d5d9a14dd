"""The number that an answer ends in, by which school mathematics is marked (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Any, ClassVar

from bottega.metrics.answers import Metric

SIGN = r"(?<![\p{L}\p{N}\p{M})\]])[-+\u2212\ufe63\uff0d\u2013]\p{Sc}?"
"""A sign stands before a number and behind nothing: the dash of "10-12" is none."""

POINT, COMMA, SPACE = r"[.\u066b\uff0e]", r"[,\u066c\uff0c]", "[\u00a0\u2009\u202f'’]"

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
"""Groups of three digits of any script, a point or a comma before the decimals; "1,2,3" is three numbers, and so is
"2 4 123".

What could be read in two ways is read as in English: 1,234 is more than a thousand, and 1.234 less than two.
"""

NUMBER = rf"(?<sign>{SIGN})?(?<body>{DIGITS})(?:[eE](?<power>[-+]?\d{{1,3}})(?!\w))?"
FINAL_ANSWER = "####"


class Numeric(Metric):
    name: ClassVar[str] = "numeric_match"
    binary: ClassVar[bool] = True

    def fits(self, answers: Sequence[str]) -> bool:
        """Where every right answer is a number, or ends in one after `####`."""
        alone = _pattern().fullmatch
        ends = all(FINAL_ANSWER in one or alone(one.strip()) for one in answers)
        return ends and all(final_number(one) is not None for one in answers)

    def sums(self, written: str, right: Sequence[str]) -> Sequence[float]:
        found = final_number(written)
        return float(found is not None and any(found == final_number(one) for one in right)), 1.0


def final_number(text: str) -> Decimal | None:
    """The number after the last `####`, or else the last of all; None where there is none."""
    for part in (text.rpartition(FINAL_ANSWER)[2], text):
        if found := list(_pattern().finditer(part)):
            return _parse_match(found[-1])
    return None


def _parse_match(found: Any) -> Decimal:
    part = found["part"] or ""
    whole = "".join(filter(str.isdecimal, found["body"].removesuffix(part)))
    sign = "-" if (found["sign"] or "+")[0] != "+" else ""
    return Decimal(f"{sign}{whole or 0}.{part or 0}E{found['power'] or 0}")


@cache
def _pattern() -> Any:
    import regex

    return regex.compile(NUMBER, regex.VERSION1)
