"""Writes a cleaned copy of the audited data, and a log of every change. The original files are never modified."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from bottega.auditing.checks.encoding import repair_text
from bottega.auditing.findings import Finding
from bottega.auditing.reader import AuditRows
from bottega.data.reader import read_rows
from bottega.errors import DataError
from bottega.runs.atomic_files import open_atomic


def log_path(copy: Path) -> Path:
    """The path of the log that belongs to a cleaned copy: `clean.jsonl` → `clean.log.jsonl`."""
    return copy.with_suffix(".log.jsonl")


def check_output_path(copy: Path) -> None:
    """Raise a DataError if no cleaned copy can be written to `copy`. Called before the audit, which may take long."""
    if copy.suffix != ".jsonl":
        fix = f"name it {copy.with_suffix('.jsonl').name}"
        raise DataError("a cleaned copy is written as JSON lines", where=str(copy), fix=fix)
    for path in (copy, log_path(copy)):
        if path.exists():
            raise DataError("already exists and is not overwritten", where=str(path), fix="choose another file name")
    if not copy.absolute().parent.is_dir():
        raise DataError("no such folder", where=str(copy.absolute().parent), fix="create it first")


def write_cleaned_copy(path: Path, rows: AuditRows, findings: Sequence[Finding]) -> tuple[int, int, int]:
    """Write the rows with the findings' fixes applied; returns (kept, removed, repaired), `kept` including repaired.

    The sources are read a second time. Rows are matched to findings by index, so the order of reading must be that of
    the audit.
    """
    actions, counts, index = _actions_by_row(findings), Counter[str](), 0
    with _os_errors_as_data_errors(path), open_atomic(path) as copy, open_atomic(log_path(path)) as log:

        def log_damage(error: DataError) -> None:
            # The file is damaged from here on; the finding "damaged file" reports the same.
            _write_line(log, {"row": error.where, "action": "read no further", "why": error.what})

        for where, fields in read_rows(rows.sources, siblings=rows.other_sources, on_damage=log_damage):
            action, why = actions.get(index, ("kept", ""))
            index += 1
            # A line that cannot be parsed arrives as its error, and has an index like any other row.
            if isinstance(fields, DataError):
                action, why = "removed", str(fields)
            else:
                fields = _repair(fields) if action == "repaired" else fields
            if action != "kept":
                _write_line(log, {"row": where, "action": action, "why": why})
            if action != "removed":
                _write_line(copy, fields)
            counts[action] += 1
    return counts["kept"] + counts["repaired"], counts["removed"], counts["repaired"]


@contextmanager
def _os_errors_as_data_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a DataError. `open_atomic` has removed both files by then."""
    try:
        yield
    except OSError as error:
        what = f"the cleaned copy cannot be written: {error.strerror}"
        raise DataError(what, where=str(path), fix="free disk space, or choose another location") from None


def _actions_by_row(findings: Sequence[Finding]) -> dict[int, tuple[str, str]]:
    """Row index → (action, kind of the finding that causes it)."""
    actions: dict[int, tuple[str, str]] = {}
    # Removal comes second, so that it overrides repair for rows that have both.
    for mend, action in (("repair", "repaired"), ("remove", "removed")):
        for finding in findings:
            if finding.mend == mend:
                actions |= dict.fromkeys(finding.rows.tolist(), (action, finding.kind))
    return actions


def _repair(value: Any) -> Any:
    """Repair every string within JSON data; keys stay as they are."""
    if isinstance(value, str):
        return repair_text(value)
    if isinstance(value, dict):
        return {name: _repair(inner) for name, inner in value.items()}
    return [_repair(inner) for inner in value] if isinstance(value, list) else value


def _write_line(file: BinaryIO, value: Any) -> None:
    # Lone surrogates, which JSON escapes may hold, have no UTF-8 encoding: backslashreplace writes them as escapes.
    file.write((json.dumps(value, ensure_ascii=False, default=str) + "\n").encode("utf-8", "backslashreplace"))
