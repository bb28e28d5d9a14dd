"""Formats of a report: one file each, found by its file name, which is also the suffix of the report's file.

To add one, write `reporting/formats/<suffix>.py` with one subclass of `ReportFormat`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from bottega import plugins
from bottega.reporting.model import RunReport


class ReportFormat(ABC):
    """A way to write the report of a run as text.

    rank  its place in the list of files that were written; the last is the one to read first
    """

    rank: ClassVar[int] = 0

    @abstractmethod
    def render(self, report: RunReport) -> str:
        """The whole file."""


def suffixes() -> list[str]:
    """All formats, by suffix, in the order of their ranks."""
    return sorted(plugins.module_names(__path__), key=lambda suffix: load(suffix).rank)


def load(suffix: str) -> ReportFormat:
    """The format of `reporting/formats/<suffix>.py`."""
    return plugins.load_class(__name__, suffix, ReportFormat)()
