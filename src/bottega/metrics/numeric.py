"""The number that an answer ends in, by which school mathematics is marked (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from bottega.metrics import Metric

NUMBER = re.compile(r"-?(?:\d[\d,]*\.?\d*|\.\d+)")
MARK = "####"


class Numeric(Metric):
    name: ClassVar[str] = "right number"
    binary: ClassVar[bool] = True

    def fits(self, answers: Sequence[str]) -> bool:
        """Where every right answer is a number, or ends in one after `####`."""
        return all(MARK in one or NUMBER.fullmatch(one.strip()) for one in answers) and all(map(number, answers))

    def sums(self, written: str, right: Sequence[str]) -> Sequence[float]:
        found = number(written)
        return float(found is not None and any(_same(found, number(one)) for one in right)), 1.0


def number(text: str) -> str | None:
    """The number after the last `####`, or else the last of all; None where there is none."""
    found = NUMBER.findall(text.rpartition(MARK)[2]) or NUMBER.findall(text)
    return found[-1].replace(",", "").rstrip(".") if found else None


def _same(one: str, other: str | None) -> bool:
    return other is not None and float(one) == float(other)
