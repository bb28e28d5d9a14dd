"""Formats by name: what the user asked for, or an error that says what there is."""

from __future__ import annotations

from bottega import exporting
from bottega.errors import ModelError, RecipeError
from bottega.exporting._source import TrainedModel
from bottega.inference import runtimes
from bottega.suggestions import suggest_name

# The name of the format that is chosen by measuring.
AUTO = "auto"


# Other names that people know a format by.
ALIASES = {"hf": "merged"}


def load_format(format: str) -> exporting.ExportFormat:
    """The format of a name; a RecipeError if there is none, a ModelError if a package that it needs is missing."""
    format = ALIASES.get(format, format)
    if format not in exporting.kinds():
        fix = suggest_name(format, [*exporting.kinds(), AUTO])
        raise RecipeError(f"unknown export format {format!r}", where="format", fix=fix)
    exporter: exporting.ExportFormat = exporting.load(format)
    if missing := exporter.missing_packages():
        what = f"writing {exporter.title} needs {', '.join(missing)}"
        raise ModelError(what, where=f"the format {format}", fix=runtimes.install_command(exporter.extra))
    return exporter


def check_precision(exporter: exporting.ExportFormat, precision: str | None) -> str:
    """The precision that is meant; a RecipeError if the format has none of that name."""
    known = exporter.precisions
    if precision is None:
        return known[0]
    precision = "fp32" if precision == "none" else precision
    if precision not in known:
        what = f"{exporter.kind} has no precision {precision!r}"
        raise RecipeError(what, where="precision", fix=f"one of {', '.join(known)}")
    return precision


def refuse(exporter: exporting.ExportFormat, model: TrainedModel) -> None:
    """Raise a ModelError that names the formats that can hold the model, if this one cannot."""
    reason = exporter.refusal(model)
    if reason:
        others = [
            kind for kind in exporting.kinds() if kind != exporter.kind and not exporting.load(kind).refusal(model)
        ]
        fix = f"formats that can hold it: {', '.join(others)}"
        raise ModelError(f"{exporter.title} cannot hold this model: {reason}", where=model.name, fix=fix)


def check_format(format: str, precision: str | None = None) -> None:
    """A RecipeError or ModelError if nothing could be written in this format and precision here."""
    check_precision(load_format(format), precision)
