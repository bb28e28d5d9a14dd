"""Write an export, and prove before it gets its name that it computes what was trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bottega import exporting
from bottega.errors import BottegaError, ModelError, RecipeError, RunError
from bottega.exporting._card import write_card
from bottega.exporting._proof import Proof, check, compare, compute_reference
from bottega.exporting._source import TrainedModel, open_trained
from bottega.inference import runtimes
from bottega.progress import StatusCallback, ignore_status
from bottega.runs.atomic_files import commit_folder
from bottega.suggestions import suggest_name


@dataclass(frozen=True)
class Export:
    """An export that was written.

    folder     where it is
    format     its kind
    precision  of its weights
    bytes      size of all its files
    proof      how it compares with what was trained; None if its runtime is not installed
    unproved   why there is no proof, in words; else empty
    """

    folder: Path
    format: str
    precision: str
    bytes: int
    proof: Proof | None
    unproved: str = ""


def export(
    name: str | Path,
    out: str | Path,
    *,
    format: str = "merged",
    precision: str | None = None,
    tell: StatusCallback = ignore_status,
) -> Export:
    """Write a run, a folder or a hub id in a format for other programs, proved equal to what was trained.

    precision  of the weights, a name in `exporting.PRECISIONS` or `none`; default: the first of the format
    tell       is called with what is being done

    Nothing is left at `out` if it fails: a ModelError if the export computes something else, the format cannot hold the
    model or a package is missing, a RecipeError for an unknown format or precision, a RunError if `out` exists.
    """
    exporter = _exporter(format)
    precision = _precision(exporter, format, precision)
    folder = Path(out).absolute()
    if folder.exists():
        raise RunError("already exists", where=str(folder), fix="name another folder, or delete this one")
    model = open_trained(str(name))
    _refuse(exporter, format, model)
    bounds = exporter.bounds(model, precision)
    unproved = _unproved(exporter)
    tell("computing the reference")
    reference = None if unproved else compute_reference(model)
    proofs: list[Proof] = []

    def write(partial: Path) -> None:
        tell("writing the export")
        with _program_errors(format, "writing the export fails"):
            exporter.write(model, partial, precision)
        info = model.info(format, precision, exporter.runtime)
        if reference is not None:
            tell("comparing it with the reference")
            with _program_errors(format, "the program that runs the export fails"):
                proofs.append(compare(reference, exporter.open(model, partial), bounds))
            check(proofs[0], bounds)
        proof = proofs[0] if proofs else None
        info.write(partial, None if proof is None else asdict(proof))
        write_card(partial, model, exporter, info, proof, unproved)

    commit_folder(folder, write, again=_command(name, format, precision, out))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Export(folder, format, precision, size, proofs[0] if proofs else None, unproved)


def _command(name: str | Path, format: str, precision: str, out: str | Path) -> str:
    quantize = "none" if precision == "fp32" else precision
    return f"bottega export {name} --to {format} --quantize {quantize} --out {out}"


def _exporter(format: str) -> exporting.ExportFormat:
    if format not in exporting.kinds():
        fix = suggest_name(format, exporting.kinds())
        raise RecipeError(f"unknown export format {format!r}", where="format", fix=fix)
    exporter = exporting.load(format)
    if missing := exporter.missing_packages():
        what = f"writing {exporter.title} needs {', '.join(missing)}"
        raise ModelError(what, where=f"the format {format}", fix=runtimes.install_command(exporter.extra))
    return exporter


def _precision(exporter: exporting.ExportFormat, format: str, precision: str | None) -> str:
    known = exporter.precisions
    if precision is None:
        return known[0]
    precision = "fp32" if precision == "none" else precision
    if precision not in known:
        what = f"{format} has no precision {precision!r}"
        raise RecipeError(what, where="precision", fix=f"one of {', '.join(known)}")
    return precision


def _refuse(exporter: exporting.ExportFormat, format: str, model: TrainedModel) -> None:
    """Raise a ModelError that names the formats that can hold the model, if this one cannot."""
    reason = exporter.refusal(model)
    if reason:
        others = [kind for kind in exporting.kinds() if kind != format and not exporting.load(kind).refusal(model)]
        fix = f"formats that can hold it: {', '.join(others)}"
        raise ModelError(f"{exporter.title} cannot hold this model: {reason}", where=model.name, fix=fix)


@contextmanager
def _program_errors(format: str, what: str) -> Iterator[None]:
    """Turn what a library raises inside the block into a ModelError that begins with `what`."""
    try:
        yield
    except (BottegaError, OSError, MemoryError):
        raise
    # Each program has errors of its own.
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{what}: {lines[0][:300]}", where=f"the format {format}", fix="nothing was kept; choose another format"
        ) from error


def _unproved(exporter: exporting.ExportFormat) -> str:
    """Why an export cannot be proved here; empty if it can."""
    if runtimes.is_installed(exporter.runtime):
        return ""
    runtime = runtimes.load_class(exporter.runtime)
    return f"{runtime.title} is not installed here: {runtimes.install_command(runtime.extra)}"
