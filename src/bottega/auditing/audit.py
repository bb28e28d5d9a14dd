"""Runs the checks over the data: `bottega.audit(data)`.

Every row is read once, in batches, and every check sees each batch. For comparisons the checks keep hashes in memory
and everything larger on disk, so that memory grows by some hundred bytes per row. The data is never modified.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bottega.auditing import checks
from bottega.auditing.checks import Check, Context
from bottega.auditing.findings import SEVERITIES, Audit, Finding
from bottega.auditing.fix import check_output_path, write_cleaned_copy
from bottega.auditing.reader import AuditRows, InvalidRows, estimate_row_count, select_rows
from bottega.errors import RecipeError
from bottega.progress import StatusCallback, ignore_status
from bottega.recipe.schema import Layout, Recipe
from bottega.suggestions import suggest_name

# Rows per call of a check: enough that a check can work on arrays, few enough that long rows fit in memory.
BATCH_SIZE = 512

# The check that reading itself performs: it reports rows that cannot be parsed, and has no file in checks/.
UNSOUND = "unsound"


def audit(
    data: str | Path | Recipe | Sequence[str | Path],
    *,
    model: str | None = None,
    against: Sequence[str | Path] = (),
    format: str = "auto",
    mapping: Mapping[str, str] | None = None,
    layout: Layout | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    near: float = 0.7,
    fix: str | Path | None = None,
    tell: StatusCallback | None = None,
) -> Audit:
    """Find what is wrong with the rows of files, folders, hub ids, or of a recipe.

    The training rows of a recipe are compared with its validation rows, and encoded as it would train on them.

    model    a run, folder or hub id; its tokenizer counts tokens, its weights score rows
    against  evaluation sets, such as a test set or a benchmark, whose rows must not be in `data`
    format   the row format, and `mapping` the names of its fields in the files, as in a recipe
    layout   how to read files whose name does not say it; not for a recipe, which has its own
    only     names of the checks to run; `skip` names checks to leave out
    near     similarity (Jaccard, 0 to 1) from which two texts are near duplicates
    fix      path of a .jsonl file for a cleaned copy; a log is written beside it
    tell     called with the current activity, the number of rows read and the total, if known

    Raises a DataError if no row is valid or the cleaned copy cannot be written, a RecipeError for wrong arguments.
    """
    started, tell = time.perf_counter(), tell or ignore_status
    selected = _select_checks(only, skip)
    arguments = [data] if isinstance(data, (str, Path, Recipe)) else list(data)
    recipe = _load_recipe(arguments)
    if fix is not None:
        check_output_path(Path(fix))
    if recipe is not None and layout not in (None, Layout()):
        advice = "set it in the recipe: data: {encoding: latin-1}"
        raise RecipeError("a recipe sets the layout of its files itself", where="--read", fix=advice)
    train, comparisons = select_rows(
        recipe or [str(path) for path in arguments],
        [str(path) for path in against],
        format,
        mapping or {},
        layout or Layout(),
    )
    context = _create_context(model, recipe, near, tell)
    active, unchecked = _create_checks(selected, context)
    reader = _BatchReader(active, context, tell, estimate_row_count([train, *comparisons]))
    # Comparison sets come first: while the data is read, the checks can already look up what it must not contain.
    # Their own invalid rows are not findings about the data.
    against_counts = {rows.name: reader.read(rows, InvalidRows(), comparison=True) for rows in comparisons}
    context.data_start, invalid = len(context.locations), InvalidRows()
    count = reader.read(train, invalid)
    findings = [*invalid.findings(context)] if UNSOUND in selected else []
    findings += _collect_findings(active, context)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    unchecked |= {name: check.unchecked for name, check in active.items() if check.unchecked}
    cleaned = None
    if fix is not None:
        tell("writing the cleaned copy")
        cleaned = write_cleaned_copy(Path(fix), train, findings)
    shape = {name: pairs for check in active.values() for name, pairs in check.shape().items()}
    return Audit(count, against_counts, findings, unchecked, shape, cleaned, time.perf_counter() - started)


def _load_recipe(arguments: Sequence[str | Path | Recipe]) -> Recipe | None:
    """The recipe if one is given, as a value or as a .yaml file; None if the arguments are paths of rows."""
    first = arguments[0] if arguments else ""
    if isinstance(first, Recipe):
        return first
    if Path(first).suffix not in (".yaml", ".yml"):
        return None
    if len(arguments) > 1:
        fix = "audit the recipe alone; --against adds rows to compare with"
        raise RecipeError("a recipe cannot be combined with other rows", where=str(first), fix=fix)
    return Recipe.load(first)


def _create_context(model: str | None, recipe: Recipe | None, near: float, tell: StatusCallback) -> Context:
    """The context of the checks, with the tokenizer of the model or of the recipe if either is given."""
    context = Context(model=model, near=near, report_status=lambda status: tell(status, len(context.locations), None))
    if model is not None or recipe is not None:
        # Imported here because it imports torch: an audit without a model starts without it.
        from bottega.auditing.encode import create_encoder

        tell("loading the tokenizer")
        context.codec, context.encode = create_encoder(model, recipe)
    return context


def _select_checks(only: Sequence[str], skip: Sequence[str]) -> list[str]:
    """Names of the checks to run; a RecipeError for an unknown name. Earlier names of checks are accepted."""
    names = [UNSOUND, *checks.names()]
    only, skip = ([checks.ALIASES.get(name, name) for name in option] for option in (only, skip))
    for name in (*only, *skip):
        if name not in names:
            raise RecipeError(f"no check {name}", where="bottega audit", fix=suggest_name(name, names))
    return [name for name in names if name not in skip and (not only or name in only)]


def _create_checks(selected: Sequence[str], context: Context) -> tuple[dict[str, Check], dict[str, str]]:
    """(checks to run by name, reason for each check that does not run)."""
    active, unchecked = dict[str, Check](), dict[str, str]()
    for name in (UNSOUND, *checks.names()):
        if name not in selected:
            unchecked[name] = "not selected"
        elif name != UNSOUND:
            check = checks.load(name)
            missing = [package for package in check.needs if importlib.util.find_spec(package) is None]
            if missing:
                unchecked[name] = f"needs {' and '.join(missing)}: pip install 'bottega[audit]'"
            else:
                active[name] = check(context)
    return active, unchecked


@dataclass(frozen=True)
class _BatchReader:
    """Shows rows to the checks in batches, and reports progress."""

    checks: Mapping[str, Check]
    context: Context
    tell: StatusCallback
    total: int | None

    def read(self, rows: AuditRows, invalid: InvalidRows, *, comparison: bool = False) -> int:
        """Show all rows to all checks; returns the number of rows read, invalid ones included."""
        locations = self.context.locations
        start, entries = len(locations), rows.entries(locations, invalid)
        while batch := list(islice(entries, BATCH_SIZE)):
            for check in self.checks.values():
                if comparison:
                    check.add_comparison(rows.name, batch)
                else:
                    check.add(batch)
            self.tell(f"reading {rows.name}", len(locations), self.total)
        return len(locations) - start


def _collect_findings(active: Mapping[str, Check], context: Context) -> Iterator[Finding]:
    for name, check in active.items():
        context.report_status(f"collecting findings: {name.replace('_', ' ')}")
        yield from check.findings()
