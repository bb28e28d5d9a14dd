"""Texts that an encoding damaged, and characters that are none."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import ClassVar

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
"""Control characters other than line ends and tabs, and marks of byte order."""

LOST = "\ufffd"
"""What decoders write where bytes were no character."""


class Encoding(Check):
    """Mojibake (UTF-8 read as something else), characters that were lost, control characters."""

    needs: ClassVar[tuple[str, ...]] = ("ftfy",)

    def __init__(self, context: Context) -> None:
        from ftfy.badness import is_bad

        super().__init__(context)
        self._is_bad = is_bad
        self.found: dict[str, array[int]] = defaultdict(lambda: array("q"))

    def see(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            for fault in dict.fromkeys(fault for text in one.texts for fault in self._faults(text)):
                self.found[fault].append(one.number)

    def _faults(self, text: str) -> Iterator[str]:
        if CONTROL.search(text):
            yield "control character"
        if not text.isascii():
            if LOST in text:
                yield "lost character"
            elif self._is_bad(text):
                yield "mojibake"

    def findings(self) -> Iterator[Finding]:
        found = self.found
        if "mojibake" in found:
            what, fix = "text that was decoded the wrong way: Ã¨ for è", "export it again as UTF-8"
            yield self.context.finding("mojibake", "error", what, fix, found["mojibake"], mend="repair")
        if "lost character" in found:
            what, fix = "� stands where a character was lost", "take the text from its source again"
            yield self.context.finding("lost character", "error", what, fix, found["lost character"])
        if "control character" in found:
            what, fix = "control characters or byte-order marks within the text", "remove them"
            yield self.context.finding(
                "control character", "warning", what, fix, found["control character"], mend="repair"
            )


def repaired(text: str) -> str:
    """The text with what can be undone undone."""
    import ftfy

    return CONTROL.sub("", text if text.isascii() else ftfy.fix_encoding(text))
