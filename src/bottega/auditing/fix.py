"""A cleaned copy of the data, and a log of what was done to it; what was read stays as it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from bottega.auditing.checks.encoding import repaired
from bottega.auditing.findings import Finding
from bottega.auditing.reader import Rows
from bottega.data import sources
from bottega.errors import DataError
from bottega.runs.atomic_files import open_atomic


def log_of(out: Path) -> Path:
    """Where the log of a cleaned copy stands."""
    return out.with_suffix(".log.jsonl")


def check_out(out: Path) -> None:
    """A DataError where a copy cannot be written, before the work is done."""
    if out.suffix != ".jsonl":
        raise DataError("a cleaned copy is JSON lines", where=str(out), fix=f"name it {out.with_suffix('.jsonl').name}")
    for path in (out, log_of(out)):
        if path.exists():
            raise DataError(
                "stands there already, and nothing is written over", where=str(path), fix="name another file"
            )
    if not out.absolute().parent.is_dir():
        raise DataError("no such folder", where=str(out.absolute().parent), fix="make it first")


def write(out: Path, rows: Rows, findings: Sequence[Finding]) -> tuple[int, int, int]:
    """Write the rows without those to be removed; returns (kept, removed, repaired), kept with the repaired."""
    fates, counts, number = _fates(findings), Counter[str](), 0
    with _named(out), open_atomic(out) as copy, open_atomic(log_of(out)) as log:
        for _, placed in sources.rows(rows.sources, rows.others):
            try:
                for where, fields in placed:
                    action, why = fates.get(number, ("kept", ""))
                    number += 1
                    if isinstance(fields, DataError):
                        action, why = "removed", str(fields)
                    else:
                        fields = _mended(fields) if action == "repaired" else fields
                    if action != "kept":
                        _line(log, {"row": where, "action": action, "why": why})
                    if action != "removed":
                        _line(copy, fields)
                    counts[action] += 1
            except DataError as error:  # the finding of a damaged file says so too
                _line(log, {"row": error.where, "action": "read no further", "why": error.what})
    return counts["kept"] + counts["repaired"], counts["removed"], counts["repaired"]


@contextmanager
def _named(out: Path) -> Iterator[None]:
    """Name what the file system refuses; neither file stands then."""
    try:
        yield
    except OSError as error:
        what = f"the cleaned copy cannot be written: {error.strerror}"
        raise DataError(what, where=str(out), fix="free some space, or name a file elsewhere") from None


def _fates(findings: Sequence[Finding]) -> dict[int, tuple[str, str]]:
    """What becomes of rows, by their numbers, and why; being removed comes before being repaired."""
    found: dict[int, tuple[str, str]] = {}
    for mend, action in (("repair", "repaired"), ("remove", "removed")):
        for finding in findings:
            if finding.mend == mend:
                found |= dict.fromkeys(finding.rows.tolist(), (action, finding.kind))
    return found


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return repaired(value)
    if isinstance(value, dict):
        return {name: _mended(inner) for name, inner in value.items()}
    return [_mended(inner) for inner in value] if isinstance(value, list) else value


def _line(file: BinaryIO, value: Any) -> None:
    file.write((json.dumps(value, ensure_ascii=False, default=str) + "\n").encode("utf-8", "backslashreplace"))
