"""Labels as numbers."""

from __future__ import annotations

import math

from bottega.errors import DataError
from bottega.records import Labelled


def parse_number(record: Labelled) -> float:
    """The label as a number; a DataError if it is not a finite one."""
    try:
        value = float(record.label)
    except ValueError:
        value = math.nan
    # float() also accepts "nan" and "inf".
    if not math.isfinite(value):
        raise DataError(
            f"label {record.label!r} is not a number",
            where=f"{record.where}, field label",
            fix="correct it, or train with objective: {kind: classify}",
        )
    return value
