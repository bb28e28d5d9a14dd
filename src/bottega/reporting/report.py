"""The report of a run: `bottega.report(run)` measures it and gathers what there is to say into one value.

Every rendering is a function of that value: `report.json` is the value itself, `report.md` reads well anywhere,
`report.html` is one file that opens offline, prints, and has a light and a dark side.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bottega.auditing.audit import audit
from bottega.auditing.entries import create_entry
from bottega.auditing.findings import Audit
from bottega.errors import BottegaError, RunError
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Evaluation, evaluate
from bottega.events import parse
from bottega.hardware.memory import in_words
from bottega.progress import StatusCallback
from bottega.reporting.html import page
from bottega.reporting.markdown import markdown
from bottega.reporting.model import Compared, Report
from bottega.runs.curves import build_charts, peak_memory
from bottega.runs.store import check_run, history, restart_command, stored_place, stored_recipe
from bottega.runs.summary import summary
from bottega.training.model_card import made_of

SHOWN = 10
"""Best and worst rows."""

MANY, SLOW = 20_000, ("near_duplicates", "languages")
"""Examples from which on these checks of the rows are left to `bottega audit`."""

EXCERPT = 300
"""Characters of a text that is shown."""


def report(
    run: str | Path,
    data: str | Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    tell: StatusCallback | None = None,
    **means: Any,
) -> Report:
    """Measure a finished run as `bottega.evaluate` does, look at its rows, and gather what there is to say of it.

    out    a folder for `report.json`, `report.md` and `report.html`
    means  how it is measured, and beside what: as `bottega.evaluate` has it
    """
    found = gathered(evaluate(run, data, tell=tell, **means), tell)
    if out is not None:
        write(found, out)
    return found


def write(report: Report, folder: str | Path) -> list[Path]:
    """Write `report.json`, `report.md` and `report.html` into a folder; returns their paths, or a RunError.

    Where one cannot be written, none is there but what was there before.
    """
    folder = Path(folder)
    texts = {"json": json.dumps(report.document(), indent=1), "md": markdown(report), "html": page(report)}
    with _named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            _partial(folder, suffix).write_text(text, encoding="utf-8")
        return [_partial(folder, suffix).replace(folder / f"report.{suffix}") for suffix in texts]


def check_writable(folder: str | Path) -> None:
    """A RunError where no report can be written into the folder: better known before it is measured."""
    folder = Path(folder)
    with _named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _partial(folder, "json").write_text("{}\n" * 4096, encoding="utf-8")
        _partial(folder, "json").unlink()


def _partial(folder: Path, suffix: str) -> Path:
    return folder / f".report.{suffix}.partial"


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Name what the file system refuses, and leave nothing half written."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            for left in folder.glob(".report.*.partial"):
                left.unlink()
        what = f"the report cannot be written: {error.strerror}"
        raise RunError(what, where=str(folder), fix="put it elsewhere: --report DIR") from None


def gathered(found: Evaluation, tell: StatusCallback | None = None) -> Report:
    """The report of a run that was measured."""
    folder = check_run(Path(found.run))
    recipe, place, events = stored_recipe(folder, own_code=False), stored_place(folder) or {}, history(folder)
    by = next((one for one in _of_rows(found) if one.metric == "loss"), next(iter(_of_rows(found)), None))
    best, worst = ([], []) if by is None else _extremes(found, by)
    return Report(
        name=recipe.name,
        evaluation=found,
        facts=_facts(folder, recipe, place, events),
        curves=build_charts(list(map(parse, events))),
        audit=_audited(folder, events, tell),
        fit=_fit(events),
        worth=_worth(found, summary(folder)["seconds"]),
        by=None if by is None else by.metric,
        best=best,
        worst=worst,
        parts=made_of(recipe),
        notes=[event["message"] for event in events if event["type"] == "noted"],
        recipe=(folder / "recipe.yaml").read_text(encoding="utf-8"),
        versions=place.get("versions", {}),
        files={name: checksum[:16] for name, checksum in place.get("files", {}).items()},
        command=restart_command(folder),
    )


def _audited(folder: Path, events: Sequence[Mapping[str, Any]], tell: StatusCallback | None) -> Audit | None:
    """What is wrong with the rows of a run; None where they are no longer to be had."""
    if tell is not None:
        tell("looking for faults in the rows it learned from")
    started = next((event for event in events if event["type"] == "started"), {"examples": 0})
    slow = SLOW if started["examples"] > MANY else ()
    with contextlib.suppress(BottegaError):
        return audit(stored_recipe(folder), skip=[*slow, "quality"])
    return None


def _fit(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the losses on training and on held-out rows say of each other."""
    validated = [(event["step"], event["loss"]) for event in events if event["type"] == "validated"]
    stepped = [event["loss"] for event in events if event["type"] == "stepped"]
    if len(validated) < 2 or not stepped:
        return []
    (best, least), (last, end) = min(validated, key=lambda pair: pair[1]), validated[-1]
    late = stepped[-max(1, len(stepped) // 10) :]
    training = sum(late) / len(late)
    said = [
        f"At the end the loss on held-out rows is {end:.3f}, on training rows {training:.3f} (the last tenth of it)."
    ]
    if best == last:
        return [*said, "The held-out loss was at its least at the end: nothing says that the run was too long."]
    return [
        *said,
        f"The held-out loss was at its least, {least:.3f}, after update {best}, and rose by {end - least:.3f} since.",
    ]


def _worth(found: Evaluation, seconds: float) -> list[str]:
    """What an answer costs beside each contender's, and after how many of them the training is earned back."""
    ours, said = found.cost, []
    for one in found.contenders:
        if ours is None or one.cost is None:
            continue
        tokens, saved = one.cost.read - ours.read, one.cost.seconds - ours.seconds
        less = (
            f"reads {abs(tokens):.0f} tokens {'fewer' if tokens >= 0 else 'more'}" if round(tokens) else "reads as much"
        )
        time = f"takes {abs(saved):.3f} s {'less' if saved >= 0 else 'longer'}"
        answers = f"{seconds / saved:,.0f} answers" if saved > 0 else ""
        back = f"; the {seconds:,.0f} s of training are earned back after {answers}" if answers else ""
        said.append(f"Beside {one.name}, an answer of the run {less} and {time} here{back}.")
    return said


def _of_rows(found: Evaluation) -> list[Estimate]:
    """The estimates that say something of every single row."""
    return [one for one in found.estimates if one.each is not None and len(one.each[0]) == len(found.records)]


def _extremes(found: Evaluation, by: Estimate) -> tuple[list[Compared], list[Compared]]:
    """(rows that gained most, rows that gained least); a row stands in one of the two at most."""
    assert by.each is not None
    run, base = by.each
    gain = (run - base) if by.higher else (base - run)
    order = np.argsort(-gain, kind="stable").tolist()
    few = min(SHOWN, len(order) // 2)

    before = found.contenders[0].answers if found.contenders else None

    def shown(place: int) -> Compared:
        one = create_entry(0, found.records[place])
        said, said_before = (texts[place] if texts else None for texts in (found.answers, before))
        said, said_before = (None if text is None else _cut(text) for text in (said, said_before))
        numbers = float(run[place]), float(base[place])
        return Compared(one.where, _cut(one.prompt), _cut(one.answer), *numbers, said, said_before)

    return [shown(place) for place in order[:few]], [shown(place) for place in order[::-1][:few]]


def _cut(text: str) -> str:
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]} …"


def _facts(folder: Path, recipe: Any, place: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What was trained, in words and numbers; what was not measured is not there."""
    known, started = summary(folder), next((event for event in events if event["type"] == "started"), {})
    stepped = [event for event in events if event["type"] == "stepped"]
    hardware = place.get("hardware", {})
    found = {
        "objective": recipe.objective.kind,
        "method": f"LoRA of rank {recipe.adapter.rank}" if recipe.adapter else "every weight",
        "began from": recipe.model.base or "nothing",
        "weights": f"{started['trained_parameters']:,} of {started['parameters']:,} trained" if started else "",
        "rows": f"{started['examples']:,} examples, {started['validation_examples']:,} held out" if started else "",
        "updates": f"{known['step']:,} of {known['steps']:,}" if known["steps"] else "",
        "training took": f"{known['seconds']:,.0f} s",
        "tokens": f"{sum(event['tokens_real'] for event in stepped):,}, of which "
        f"{sum(event['tokens'] for event in stepped):,} were computed",
        "peak memory": in_words(*peak_memory(list(map(parse, events)))) if stepped else "",
        "on": ", ".join(str(part) for part in (hardware.get("accelerator"), hardware.get("processor")) if part),
        "precision": str(started.get("dtype", "")),
    }
    return {name: text for name, text in found.items() if text}
