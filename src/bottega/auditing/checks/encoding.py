"""Texts damaged by a wrong encoding, and control characters."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import ClassVar

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding

# Control characters other than line breaks (\n, \r, \x85) and tabs, and byte-order marks.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")

# What decoders insert for bytes that are no character. The original cannot be recovered.
REPLACEMENT = "\ufffd"


class Encoding(Check):
    """Mojibake (UTF-8 decoded as another encoding), replacement characters, control characters."""

    needs: ClassVar[tuple[str, ...]] = ("ftfy",)

    def __init__(self, context: Context) -> None:
        from ftfy.badness import is_bad

        super().__init__(context)
        self._is_mojibake = is_bad
        self.rows_by_fault: dict[str, array[int]] = defaultdict(lambda: array("q"))

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            for fault in dict.fromkeys(fault for text in entry.texts for fault in self._faults(text)):
                self.rows_by_fault[fault].append(entry.row)

    def _faults(self, text: str) -> Iterator[str]:
        if CONTROL.search(text):
            yield "control character"
        # ASCII text, most of the data, cannot be mojibake: this avoids the expensive search.
        if not text.isascii():
            if REPLACEMENT in text:
                yield "lost character"
            elif self._is_mojibake(text):
                yield "mojibake"

    def findings(self) -> Iterator[Finding]:
        rows = self.rows_by_fault
        if "mojibake" in rows:
            what, fix = "text decoded with the wrong encoding: Ã¨ for è", "export it again as UTF-8"
            yield self.context.finding("mojibake", "error", what, fix, rows["mojibake"], mend="repair")
        if "lost character" in rows:
            what, fix = "� in place of a character that was lost", "take the text from its source again"
            yield self.context.finding("lost character", "error", what, fix, rows["lost character"])
        if "control character" in rows:
            what, fix = "control characters or byte-order marks within the text", "remove them"
            yield self.context.finding(
                "control character", "warning", what, fix, rows["control character"], mend="repair"
            )


def repair_text(text: str) -> str:
    """The text without control characters, and with mojibake decoded again where that can be undone."""
    import ftfy

    return CONTROL.sub("", text if text.isascii() else ftfy.fix_encoding(text))
