"""The report as JSON: all of its content, for other programs."""

from __future__ import annotations

import json
from typing import ClassVar

from bottega.reporting.formats import ReportFormat
from bottega.reporting.model import RunReport


class JsonReport(ReportFormat):
    """The document of `RunReport`."""

    rank: ClassVar[int] = 1

    def render(self, report: RunReport) -> str:
        return json.dumps(report.document(), indent=1)
