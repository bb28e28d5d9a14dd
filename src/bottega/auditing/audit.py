"""Look at the data before anything is trained on it: `bottega.audit(data)`.

All rows are read once, in parts, and every check sees each part; what must be compared is kept as hashes, or on disk,
so that memory grows by some hundred bytes a row. Nothing that is read is changed.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from bottega.auditing import checks as known
from bottega.auditing.checks import Check, Context
from bottega.auditing.findings import SEVERITIES, Audit, Finding
from bottega.auditing.fix import check_out, write
from bottega.auditing.reader import Refused, Rows, expected, named
from bottega.errors import RecipeError
from bottega.progress import StatusCallback, ignore_status
from bottega.recipe.schema import Layout, Recipe
from bottega.suggestions import suggest_name

PART = 512
"""Rows that checks see at once."""

UNSOUND = "unsound"
"""The name of the check that reading itself is: of rows that are none."""


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
    """What is wrong with rows: files, folders, hub ids, or a recipe, whose validation rows they are compared with.

    model    a run, folder or hub id: with its tokenizer rows are counted in tokens, by its weights they are scored
    against  rows to be measured on, such as a test set or a benchmark, which must not stand in `data`
    format   how fields make a row, and `mapping` what the file calls them, as in a recipe
    layout   how files are laid out that do not say so themselves; a recipe says it of its own
    only     names of checks to run alone; `skip` those to leave out
    near     share of what two texts have in common from which on they are nearly the same
    fix      a .jsonl file to write a cleaned copy to, with a log beside it
    """
    started, tell = time.perf_counter(), tell or ignore_status
    wanted = _wanted(only, skip)
    listed = [data] if isinstance(data, (str, Path, Recipe)) else list(data)
    read = _recipe(listed) or [str(path) for path in listed]
    recipe = read if isinstance(read, Recipe) else None
    if fix is not None:
        check_out(Path(fix))
    if recipe is not None and layout not in (None, Layout()):
        fix = "write it in the recipe: data: {encoding: latin-1}"
        raise RecipeError("a recipe says itself how its rows are read", where="--read", fix=fix)
    own, others = named(read, [str(path) for path in against], format, mapping or {}, layout or Layout())
    context = Context(model=model, near=near, tell=lambda words: tell(words, len(context.places), None))
    if model is not None or recipe is not None:
        from bottega.auditing.encode import encoder

        tell("loading the tokenizer")
        context.codec, context.rows = encoder(model, recipe)
    checks, unchecked = _checks(wanted, context)
    refused, total = Refused(), expected([own, *others])
    compared = {rows.name: _looked(rows, checks, context, Refused(), tell, total, compared=True) for rows in others}
    context.start = len(context.places)
    count = _looked(own, checks, context, refused, tell, total)
    findings = [*refused.findings(context)] if UNSOUND in wanted else []
    findings += _found(checks, context)
    findings.sort(key=lambda found: SEVERITIES.index(found.severity))
    unchecked |= {name: check.unchecked for name, check in checks.items() if check.unchecked}
    cleaned = None
    if fix is not None:
        tell("writing the cleaned copy")
        cleaned = write(Path(fix), own, findings)
    shape = {name: pairs for check in checks.values() for name, pairs in check.shape().items()}
    return Audit(count, compared, findings, unchecked, shape, cleaned, time.perf_counter() - started)


def _found(checks: Mapping[str, Check], context: Context) -> Iterator[Finding]:
    for name, check in checks.items():
        context.tell(f"{name.replace('_', ' ')}: what it found")
        yield from check.findings()


def _recipe(listed: Sequence[str | Path | Recipe]) -> Recipe | None:
    """The recipe, where one is given instead of rows."""
    first = listed[0] if listed else ""
    if isinstance(first, Recipe):
        return first
    if Path(first).suffix not in (".yaml", ".yml"):
        return None
    if len(listed) > 1:
        raise RecipeError(
            "a recipe and rows", where=str(first), fix="audit the recipe alone; --against adds rows to compare"
        )
    return Recipe.load(first)


def _wanted(only: Sequence[str], skip: Sequence[str]) -> list[str]:
    names = [UNSOUND, *known.names()]
    only, skip = ([known.ALIASES.get(name, name) for name in given] for given in (only, skip))
    for name in (*only, *skip):
        if name not in names:
            raise RecipeError(f"no check {name}", where="bottega audit", fix=suggest_name(name, names))
    return [name for name in names if name not in skip and (not only or name in only)]


def _checks(wanted: Sequence[str], context: Context) -> tuple[dict[str, Check], dict[str, str]]:
    """(the checks to run, those left out and why)."""
    running, unchecked = dict[str, Check](), dict[str, str]()
    for name in (UNSOUND, *known.names()):
        if name not in wanted:
            unchecked[name] = "not asked for"
        elif name != UNSOUND:
            kind = known.load(name)
            missing = [package for package in kind.needs if importlib.util.find_spec(package) is None]
            if missing:
                unchecked[name] = f"needs {' and '.join(missing)}: pip install 'bottega[audit]'"
            else:
                running[name] = kind(context)
    return running, unchecked


def _looked(
    rows: Rows,
    checks: Mapping[str, Check],
    context: Context,
    refused: Refused,
    tell: StatusCallback,
    total: int | None,
    *,
    compared: bool = False,
) -> int:
    """Show all rows to all checks; returns how many were read."""
    before, entries = len(context.places), rows.entries(context.places, refused)
    while part := list(islice(entries, PART)):
        for check in checks.values():
            if compared:
                check.compare(rows.name, part)
            else:
                check.see(part)
        tell(f"reading {rows.name}", len(context.places), total)
    return len(context.places) - before
