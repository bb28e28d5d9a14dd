"""Secrets and personal data: addresses, telephone and account numbers, keys. What they are is never printed."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding, Severity

ANY = re.compile(r"@|\d{4}|\d[ .\-/]\d|eyJ|-----BEGIN|://|[A-Za-z0-9_\-]{16}")
"""Nothing private is in a text without one of these."""


COUNTRIES = """
AD24 AE23 AT20 BA20 BE16 BG22 BR29 CH21 CY28 CZ24 DE22 DK18 EE20 ES24 FI18 FR27 GB22 GR27 HR21 HU28 IE22 IL23 IS26
IT27 LI21 LT20 LU20 LV21 MC27 MD24 ME22 MK19 MT31 NL18 NO15 PL28 PT25 RO24 RS22 SA24 SE24 SI19 SK24 SM27 TR26 UA29
"""
IBAN_LENGTHS = {one[:2]: int(one[2:]) for one in COUNTRIES.split()}
"""How long an account number is, by its country."""


class Kind(NamedTuple):
    """A shape of private data, and what must hold of what has it."""

    severity: Severity
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda text: True


def _luhn(text: str) -> bool:
    """Whether the last digit is the check digit of a card number (ISO/IEC 7812)."""
    digits = [int(c) for c in text if c.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) < 2:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> bool:
    """Whether a number of its country's length leaves the remainder 1 by 97 (ISO 13616)."""
    length = IBAN_LENGTHS.get(text[:2], 34)
    plain = "".join(text.split())[:length]
    if len(plain) < length:
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _phone(text: str) -> bool:
    """Whether there are digits enough; a number in the text right behind may have come along."""
    return sum(map(str.isdigit, text)) >= 9


KINDS: dict[str, Kind] = {
    "API key": Kind(
        "error",
        re.compile(
            r"\b(?:sk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}"
            r"|xox[abpr]-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{35}|hf_[A-Za-z0-9]{30,}|glpat-[A-Za-z0-9_-]{20,}"
            r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,})"
        ),
    ),
    "private key": Kind("error", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    "password in an address": Kind("error", re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/:@]+@")),
    "card number": Kind(
        "error",
        re.compile(
            r"(?<![\w.+-])(?:[3-6]\d{12,18}|[3-6]\d{3}([ -])(?:\d{4}\1\d{4}\1\d{1,7}|\d{6}\1\d{5}))(?![\w.-]\w|\w)"
        ),
        _luhn,
    ),
    "IBAN": Kind("error", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b"), _iban),
    "e-mail address": Kind("warning", re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")),
    "telephone number": Kind(
        "warning",
        re.compile(
            r"(?<![\w.+-])(?:\+\d[\d ().-]{7,18}\d|\(\d{2,4}\) ?\d{3}[ .-]?\d{3,5}|\d{3}[ .-]\d{3}[ .-]\d{4})(?![\w-])"
        ),
        _phone,
    ),
}


class Private(Check):
    """One finding a kind, with the rows that have it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.found: dict[str, array[int]] = defaultdict(lambda: array("q"))

    def see(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            if any(ANY.search(text) for text in one.texts):
                whole = "\n".join(one.texts)
                for name, kind in KINDS.items():
                    if any(kind.holds(match.group()) for match in kind.pattern.finditer(whole)):
                        self.found[name].append(one.number)

    def findings(self) -> Iterator[Finding]:
        for name, kind in KINDS.items():
            if name in self.found:
                what = f"holds what looks like {'an' if name[0] in 'AIe' else 'a'} {name}: a model may repeat it"
                fix = "withdraw it, and remove the rows" if kind.severity == "error" else "mask it or remove the rows"
                yield self.context.finding(name, kind.severity, what, fix, self.found[name])
