"""Write an export, and prove before it gets its name that it computes what was trained."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from bottega.errors import RecipeError, RunError
from bottega.exporting._auto import check_options, choose
from bottega.exporting._formats import AUTO, check_precision, load_format, refuse
from bottega.exporting._job import Export, ExportJob, write_export
from bottega.exporting._lora import open_adapters, shared_base
from bottega.exporting._source import open_trained
from bottega.progress import StatusCallback, ignore_status
from bottega.runs.resolve import resolve
from bottega.runs.store import MERGED_BASE, RESULTS

# Rows that a run held out, on which a quantized export is evaluated.
QUALITY_ROWS = 100


def export(
    name: str | Path,
    out: str | Path,
    *,
    format: str = "merged",
    precision: str | None = None,
    adapters: Sequence[str | Path] = (),
    device: str | None = None,
    rows: int = QUALITY_ROWS,
    tell: StatusCallback = ignore_status,
) -> Export:
    """Write a run, a folder or a hub id in a format for other programs, proved equal to what was trained.

    format     a kind of `exporting.kinds()`, or `auto`: the fastest here of those that lose nothing that can be noticed
    precision  of the weights, a name in `exporting.PRECISIONS` or `none`; default: the first of the format
    adapters   runs or folders of LoRA adapters of this model, each to be written into a file beside it
    device     of `auto` alone: where the export will run, cpu (default) or cuda
    rows       rows held out by a run on which an export in 8 or 4 bits is evaluated; 0: none
    tell       is called with what is being done

    Nothing is left at `out` if it fails: a ModelError if the export computes something else, the format cannot hold the
    model or a package is missing, a RecipeError for an unknown format or precision, a RunError if `out` exists.
    """
    folder = Path(out).absolute()
    if folder.exists():
        raise RunError("already exists", where=str(folder), fix="name another folder, or delete this one")
    if folder.name in (*RESULTS, MERGED_BASE) and resolve(folder.parent).is_run:
        fix = "name another folder"
        raise RunError("a run would take the export for its own result", where=str(folder), fix=fix)
    if rows < 0:
        raise RecipeError(f"{rows} rows", where="rows", fix="a number from 0")
    again = _command(name, format, precision, out, adapters)
    if format == AUTO:
        check_options(precision, adapters, device)
        return choose(open_trained(str(name)), folder, device=device or "cpu", rows=rows, again=again, tell=tell)
    if device is not None:
        fix = f"leave it out, or let it be chosen: format {AUTO}"
        raise RecipeError(f"{format} runs on any device of its program", where="device", fix=fix)
    exporter = load_format(format)
    precision = check_precision(exporter, precision)
    base = open_trained(str(name))
    loras = open_adapters(base, adapters)
    model = shared_base(loras) if loras else base
    refuse(exporter, model)
    return write_export(ExportJob(model, base, loras, exporter, precision, rows, tell), folder, again=again)


def _command(
    name: str | Path, format: str, precision: str | None, out: str | Path, adapters: Sequence[str | Path]
) -> str:
    """The command line that exports the same."""
    words = ["bottega", "export", str(name), "--to", format, "--out", str(out)]
    words += [] if precision is None else ["--quantize", precision]
    words += ["--adapters", ",".join(map(str, adapters))] if adapters else []
    return shlex.join(words)
