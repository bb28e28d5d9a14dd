"""Secrets and personal data: addresses, telephone and account numbers, keys. The values themselves are never shown."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding, Severity

# Every pattern below needs one of these. Most texts have none, and are done after this single search.
CANDIDATE = re.compile(r"@|\d{4}|\d[ .\-/]\d|eyJ|-----BEGIN|://|[A-Za-z0-9_\-]{16}")

# Country codes, each with the length of its account numbers (IBAN registry).
IBAN_COUNTRIES = """
AD24 AE23 AT20 BA20 BE16 BG22 BR29 CH21 CY28 CZ24 DE22 DK18 EE20 ES24 FI18 FR27 GB22 GR27 HR21 HU28 IE22 IL23 IS26
IT27 LI21 LT20 LU20 LV21 MC27 MD24 ME22 MK19 MT31 NL18 NO15 PL28 PT25 RO24 RS22 SA24 SE24 SI19 SK24 SM27 TR26 UA29
"""
IBAN_LENGTHS = {country[:2]: int(country[2:]) for country in IBAN_COUNTRIES.split()}


class DataPattern(NamedTuple):
    """A kind of private data: the form it has, and a check of what has that form, such as a checksum."""

    severity: Severity
    regex: re.Pattern[str]
    is_valid: Callable[[str], bool] = lambda text: True


def _is_card_number(text: str) -> bool:
    """Whether the last digit is the Luhn check digit of a card number (ISO/IEC 7812)."""
    digits = [int(character) for character in text if character.isdigit()]
    # 0000 0000 0000 0000 passes the checksum, but is a placeholder.
    if not 13 <= len(digits) <= 19 or len(set(digits)) < 2:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """Whether an account number has its country's length, and the remainder 1 modulo 97 (ISO 13616)."""
    length = IBAN_LENGTHS.get(text[:2], 34)
    # The pattern may take in the next word of the text; what exceeds the country's length is not part of the number.
    plain = "".join(text.split())[:length]
    if len(plain) < length:
        return False
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


def _is_phone_number(text: str) -> bool:
    """Whether there are enough digits for a telephone number. No maximum: a number that follows may be matched too."""
    return sum(map(str.isdigit, text)) >= 9


PATTERNS: dict[str, DataPattern] = {
    # Prefixes of providers: OpenAI, AWS, GitHub, Slack, Google, Hugging Face, GitLab; and JSON web tokens.
    "API key": DataPattern(
        "error",
        re.compile(
            r"\b(?:sk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}"
            r"|xox[abpr]-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{35}|hf_[A-Za-z0-9]{30,}|glpat-[A-Za-z0-9_-]{20,}"
            r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,})"
        ),
    ),
    "private key": DataPattern("error", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    "password in an address": DataPattern("error", re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/:@]+@")),
    # Groups as printed on cards, 4-4-4-4 or 4-6-5, or no separator at all; not part of a longer number or identifier.
    "card number": DataPattern(
        "error",
        re.compile(
            r"(?<![\w.+-])(?:[3-6]\d{12,18}|[3-6]\d{3}([ -])(?:\d{4}\1\d{4}\1\d{1,7}|\d{6}\1\d{5}))(?![\w.-]\w|\w)"
        ),
        _is_card_number,
    ),
    "IBAN": DataPattern("error", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b"), _is_iban),
    "e-mail address": DataPattern("warning", re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")),
    # International, or in the North American style; plain digits could be any number.
    "telephone number": DataPattern(
        "warning",
        re.compile(
            r"(?<![\w.+-])(?:\+\d[\d ().-]{7,18}\d|\(\d{2,4}\) ?\d{3}[ .-]?\d{3,5}|\d{3}[ .-]\d{3}[ .-]\d{4})(?![\w-])"
        ),
        _is_phone_number,
    ),
}


class PersonalData(Check):
    """One finding per kind of private data, with the rows that have it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rows_by_kind: dict[str, array[int]] = defaultdict(lambda: array("q"))

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if any(CANDIDATE.search(text) for text in entry.texts):
                joined = "\n".join(entry.texts)
                for kind, pattern in PATTERNS.items():
                    if any(pattern.is_valid(match.group()) for match in pattern.regex.finditer(joined)):
                        self.rows_by_kind[kind].append(entry.row)

    def findings(self) -> Iterator[Finding]:
        for kind, pattern in PATTERNS.items():
            if kind in self.rows_by_kind:
                what = f"possible {kind}: the model may reproduce it"
                fix = "mask it, or remove the rows"
                if pattern.severity == "error":
                    fix = "revoke it, and remove the rows"
                yield self.context.finding(kind, pattern.severity, what, fix, self.rows_by_kind[kind])
