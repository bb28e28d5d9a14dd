"""Creates and writes the report of a run: `bottega.report(run)`.

`report.json` holds all of its content, `report.md` reads well anywhere, and `report.html` is a single file that opens
offline, prints, and follows the light or dark theme of the system.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bottega.auditing.audit import audit
from bottega.auditing.findings import Audit
from bottega.errors import BottegaError, RunError
from bottega.evaluation.evaluate import Evaluation, evaluate
from bottega.events import Event, Noted, parse
from bottega.progress import StatusCallback, ignore_status
from bottega.reporting import formats
from bottega.reporting.comparisons import rank_rows, summarize_costs
from bottega.reporting.model import RunReport
from bottega.reporting.run_facts import describe_run, find_started, summarize_losses
from bottega.runs.curves import build_charts
from bottega.runs.store import check_run, read_events, restart_command, stored_place, stored_recipe
from bottega.runs.summary import summary
from bottega.training.model_card import list_components

# Checks that are skipped for more examples than this: they would take longer than the evaluation itself.
MAX_EXAMPLES_FOR_SLOW_CHECKS, SLOW_CHECKS = 20_000, ("near_duplicates", "languages")

# Digits shown of a SHA-256 checksum: enough to compare files by eye.
CHECKSUM_DIGITS = 16


def report(
    run: str | Path,
    data: str | Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    tell: StatusCallback | None = None,
    **options: Any,
) -> RunReport:
    """Evaluate a finished run as `bottega.evaluate` does, audit its training data, and create a report.

    out      a folder to write `report.json`, `report.md` and `report.html` to
    options  those of `bottega.evaluate`

    Raises a RunError if the report cannot be written, and whatever `bottega.evaluate` raises.
    """
    result = build_report(evaluate(run, data, tell=tell, **options), tell)
    if out is not None:
        write_report(result, out)
    return result


def build_report(evaluation: Evaluation, tell: StatusCallback | None = None) -> RunReport:
    """The report of an evaluated run, from its folder and its evaluation."""
    folder = check_run(Path(evaluation.run))
    # The run's own code is not needed here, and executing it is a risk for a run of someone else.
    recipe, place = stored_recipe(folder, own_code=False), stored_place(folder) or {}
    events = list(map(parse, read_events(folder)))
    ranked = rank_rows(evaluation)
    return RunReport(
        name=recipe.name,
        evaluation=evaluation,
        facts=describe_run(folder, recipe, place, events),
        curves=build_charts(events),
        audit=_audit_training_data(folder, events, tell or ignore_status),
        loss_summary=summarize_losses(events),
        cost_summary=summarize_costs(evaluation, summary(folder)["seconds"]),
        ranking_metric=ranked.metric,
        best=ranked.best,
        worst=ranked.worst,
        components=list_components(recipe),
        notes=[event.message for event in events if isinstance(event, Noted)],
        recipe=(folder / "recipe.yaml").read_text(encoding="utf-8"),
        versions=place.get("versions", {}),
        files={name: checksum[:CHECKSUM_DIGITS] for name, checksum in place.get("files", {}).items()},
        command=restart_command(folder),
    )


def _audit_training_data(folder: Path, events: Sequence[Event], tell: StatusCallback) -> Audit | None:
    """The audit of a run's training data; None if the data is no longer available."""
    tell("auditing the training data")
    started = find_started(events)
    many = started is not None and started.examples > MAX_EXAMPLES_FOR_SLOW_CHECKS
    # Missing files are only one reason why the rows may be unavailable; a report without an audit is better than none.
    with contextlib.suppress(BottegaError):
        # `quality` needs a model that knows the language, which the run's own need not be.
        return audit(stored_recipe(folder), skip=[*(SLOW_CHECKS if many else ()), "quality"])
    return None


def write_report(report: RunReport, folder: str | Path) -> list[Path]:
    """Write the report into a folder in every format; returns the paths, the page to read first (`report.html`) last.

    Raises a RunError if one of them cannot be written; files of an earlier report are unchanged then.
    """
    folder = Path(folder)
    texts = {suffix: formats.load(suffix).render(report) for suffix in formats.suffixes()}
    with _os_errors_as_run_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # All are written before any is renamed: a full disk leaves no mixture of two reports.
        for suffix, text in texts.items():
            _partial_path(folder, suffix).write_text(text, encoding="utf-8")
        return [_partial_path(folder, suffix).replace(folder / f"report.{suffix}") for suffix in texts]


def check_writable(folder: str | Path) -> None:
    """Raise a RunError if no report can be written into the folder. Called before the evaluation, which takes long."""
    folder = Path(folder)
    with _os_errors_as_run_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Some blocks of data, not an empty file: a full disk still accepts those.
        _partial_path(folder, "json").write_text("{}\n" * 4096, encoding="utf-8")
        _partial_path(folder, "json").unlink()


def _partial_path(folder: Path, suffix: str) -> Path:
    return folder / f".report.{suffix}.partial"


@contextlib.contextmanager
def _os_errors_as_run_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into a RunError, and remove partial files."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            for path in folder.glob(".report.*.partial"):
                path.unlink()
        what = f"the report cannot be written: {error.strerror}"
        raise RunError(what, where=str(folder), fix="choose another folder: --report DIR") from None
