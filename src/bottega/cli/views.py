"""What a person sees in the terminal: a run as it goes, rows as tokens, tables."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import bottega

LEARNED = "bold green"
SAID = "cyan"
READ = "dim"
BARS = 12
"""Bars that a chart shows."""

LINES = 20
"""How many lines of a run's progress stay where there is no live line to show it."""

ANSWER = 160
"""Most characters of an answer in one line."""


def progress_console(*, quiet: bool = False) -> Console:
    return Console(stderr=True, highlight=False, quiet=quiet)


def watch(events: Iterable[bottega.Event], console: Console, *, every: int | None = None) -> Iterator[bottega.Event]:
    """Pass events on while showing them: one live line, and a line that stays for each thing worth keeping.

    every  updates between lines that stay; none by default, but where there is no live line, about twenty in a run
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("loading", total=None, now="")
        speed = 0.0
        for event in events:
            if isinstance(event, bottega.Started):
                if every is None and not console.is_terminal:
                    every = max(1, event.steps // LINES)
                progress.reset(task, total=event.steps, completed=event.step, description="training")
                console.print(_started(event))
            elif isinstance(event, bottega.Stepped):
                rate = event.tokens_real / event.seconds
                speed = rate if not speed else 0.9 * speed + 0.1 * rate
                progress.update(task, completed=event.step, now=_stepped(event, speed))
                if every is not None and event.step % every == 0:
                    console.print(f"step {event.step:>6}  {_stepped(event, speed)}")
            elif isinstance(event, bottega.Validated):
                best = " ✓ best" if event.best else ""
                console.print(f"step {event.step:>6}  validation loss {event.loss:.4f}{_metrics(event.metrics)}{best}")
            elif isinstance(event, bottega.Answered):
                console.print(_answered(event), style="dim")
            elif isinstance(event, bottega.Noted):
                console.print(_noted(event))
            elif isinstance(event, bottega.Saved):
                console.print(f"step {event.step:>6}  saved {event.checkpoint}", style="dim")
            elif isinstance(event, bottega.Finished):
                console.print(f"step {event.step:>6}  done: {event.reason}")
            yield event


def warn(events: Iterable[bottega.Event], console: Console) -> Iterator[bottega.Event]:
    """Pass events on while showing notes only."""
    for event in events:
        if isinstance(event, bottega.Noted):
            console.print(_noted(event))
        yield event


def _noted(event: bottega.Noted) -> str:
    details = "".join(f"\n    {count} × {escape(str(reason))}" for reason, count in event.details.items())
    return f"[yellow]note[/] {escape(event.message)}{details}"


def _answered(event: bottega.Answered) -> str:
    """The best and the worst of the answers to a prompt, each in a line."""
    found = sorted(zip(event.rewards, event.answers, strict=True))
    lines = [f"\n    {reward:.3g}: {' '.join(text.split())[:ANSWER]}" for reward, text in (found[-1], found[0])]
    return escape(f"step {event.step:>6}  answers, by their rewards, to {event.where}{''.join(lines)}")


def _started(event: bottega.Started) -> str:
    share = 100 * event.trained_parameters / event.parameters
    begun = f"continuing at step {event.step}" if event.resumed else f"{event.steps} updates"
    return (
        f"{event.examples:,} examples, {event.validation_examples:,} for validation; {begun}; training "
        f"{_count(event.trained_parameters)} of {_count(event.parameters)} weights ({share:.3g} %), "
        f"{event.dtype} on {event.device}, {event.threads} threads"
    )


def _stepped(event: bottega.Stepped, speed: float) -> str:
    memory = memory_in_words(event.memory, event.device_memory)
    return f"loss {event.loss:.4f}{_metrics(event.metrics)}  {speed:,.0f} tokens/s  {memory}"


def memory_in_words(host: float, device: float) -> str:
    """Peak bytes of the host, and of the accelerator if there is one."""
    return f"{host / 1e9:.1f} GB (host), {device / 1e9:.1f} GB (GPU)" if device else f"{host / 1e9:.1f} GB"


def _metrics(metrics: dict[str, float]) -> str:
    return "".join(f"  {name} {value:.3f}" for name, value in metrics.items())


def _count(number: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def show_preview(preview: bottega.Preview, console: Console) -> None:
    """Tokens that carry loss in bold green, the rest dim, line breaks marked; what a row or a token is, beside it."""
    for note in preview.notes:
        console.print(f"[yellow]note[/] {escape(note)}")
    for (name, rows), labels in zip(preview.examples, preview.labels, strict=True):
        for index, (pieces, label) in enumerate(zip(rows, labels, strict=True)):
            carrying = sum(piece.weight > 0 for piece in pieces)
            nth = f"row {index + 1} of {len(rows)}, " if len(rows) > 1 else ""
            said = f", {label}" if label else ""
            console.rule(escape(f"{name}: {nth}{len(pieces)} tokens, {carrying} carry loss{said}"), align="left")
            console.print(_coloured(pieces, label), soft_wrap=True)
    console.rule(style="dim")
    console.print(
        Text.assemble(("this carries loss", LEARNED), "  ", ("this is only read", READ), "  · between tokens")
    )


def _coloured(pieces: Iterable[bottega.TokenPiece], label: str) -> Text:
    text = Text()
    for piece in pieces:
        shown = piece.text.replace("\n", "⏎\n")
        text.append(shown, LEARNED if piece.weight else READ)
        if piece.label not in ("", label):
            text.append(f"⟨{piece.label}⟩", SAID)
        if not shown.endswith("\n"):
            text.append("·", "bright_black")
    return text


def show_demo(
    folder: Path, summary: Mapping[str, Any], conversation: Iterable[tuple[str, str]], console: Console
) -> None:
    """What the demo's model was worth, a conversation with it, and where to go from there."""
    low, high = summary["gain_interval"]
    asked = max(summary["base_asked"], key=summary["base_asked"].get)
    rows = [
        ("held-out loss of pre-training, nats a token", f"{summary['pretrain_loss']:.2f}"),
        ("  the same of a bigram model", f"{summary['bigram_entropy']:.2f}"),
        ("topics of unseen letters, before tuning", f"{summary['base_accuracy']:.1%} ({asked}, its best way)"),
        ("topics of unseen letters, tuned", f"{summary['tuned_accuracy']:.1%}"),
        ("  gain, 95 % interval", f"{low:+.0%} to {high:+.0%}"),
        ("their fields as JSON, all right", f"{summary['fields_accuracy']:.1%}"),
        ("kind reply preferred to a rude one", f"{summary['preference_accuracy']:.1%}"),
        ("  by taking the longer one", f"{summary['length_heuristic_accuracy']:.1%}"),
        ("training took", f"{summary['train_seconds']:.0f} s"),
    ]
    console.print(table("\nWhat it was worth", ["", ""], rows))
    console.print("\nA conversation", style="bold")
    for question, answer in conversation:
        console.print(Text.assemble(("  you › ", "bold"), question))
        console.print(Text.assemble(("model › ", LEARNED), answer))
    console.print(f"\nThe verdict on the fine-tuning, in {folder}/tuned/report.html", style="bold")
    console.print(summary["verdict"], markup=False)
    console.print("\nNext", style="bold")
    for command in (
        f"bottega chat {folder}/aligned --temperature 0",
        f"bottega preview {folder}/tuned.yaml",
        f"bottega train {folder}/tuned.yaml optim.epochs=1 adapter.rank=4",
        f"bottega runs {folder}",
        f"bottega demo --seed {summary['seed'] + 1}",
    ):
        console.print(f"  {command}", markup=False, soft_wrap=True)


UNKNOWN_LEAKS = "not checked: whether it learned these rows; those it was trained on are not to be had here"
OUTCOME = {
    "better": "bold green",
    "not worse": "green",
    "inconclusive": "yellow",
    "worse": "bold red",
    "void": "bold red",
}
FOUND = {"better": "[green]better[/]", "worse": "[red]worse[/]", "inconclusive": "[yellow]inconclusive[/]"}


def _finding(one: bottega.Estimate) -> str:
    """What a difference comes to; empty only where there is nothing to compare with."""
    if one.finding is not None:
        return FOUND[one.finding]
    return "" if one.base is None else "too few rows" if one.interval is None else "neither"


def show_evaluation(found: bottega.Evaluation, console: Console) -> None:
    """What was measured, beside the base, and what can be said of it."""
    head = ["", "run", "before" if found.base else "", "difference, 95 %", "finding", "rows"]
    for title, estimates in (
        (f"{found.run} on {found.rows} of {found.of} rows", found.estimates),
        ("Side effects", found.effects),
    ):
        if estimates:
            rows = ([one.label, *one.formatted(), _finding(one), str(one.rows)] for one in estimates)
            _compare(title, head, rows, console)
    metric = found.verdict.metric
    beside = [(one, same) for one in found.contenders if (same := one.shared(metric)) is not None]
    if found.others and beside:
        rows = (
            [
                one.name + ("" if same.metric == metric else f", by {same.label}"),
                *same.formatted(),
                _finding(same),
            ]
            for one, same in beside
        )
        _compare(
            f"{bottega.metric_label(metric or '')}, beside what else could be done",
            [*head[:2], "its", "difference", "finding"],
            rows,
            console,
        )
    console.print(Text(found.verdict.sentence, OUTCOME[found.verdict.outcome]))
    console.print(
        f"before: {found.base}" if found.base else "It began from nothing: there is nothing before it.",
        style="dim",
        markup=False,
    )
    if found.spread():
        console.print(found.spread())
    for name, why in found.unasked.items():
        console.print(f"[yellow]note[/] {escape(name)}: {escape(why)}")
    for reason, count in found.dropped.items():
        console.print(f"[yellow]note[/] {count} rows left out: {escape(reason)}")
    if found.leaked is None:
        console.print(f"[yellow]note[/] {UNKNOWN_LEAKS}")
    elif found.leaked and found.verdict.outcome != "void":
        console.print(f"[yellow]note[/] {found.leaked} rows left out: they stand in the training rows")


NARROW = 64
"""Columns of a terminal in which numbers have no room side by side."""


def _compare(title: str, head: list[str], rows: Iterable[Sequence[str]], console: Console) -> None:
    """A table of a name and numbers a row; in a narrow terminal, a line for each number."""
    if console.width >= NARROW:
        shown = table(title, head, [])
        for name, *cells in rows:
            shown.add_row(escape(name), *cells)
        console.print(shown)
        return
    console.print(f"[bold]{escape(title)}[/]")
    for name, *cells in rows:
        console.print(escape(name))
        for what, cell in zip(head[1:], cells, strict=True):
            if cell:
                console.print(f"  {what.split(',')[0]:11}{cell}")


def show_plan(found: bottega.Plan, recipe: str, console: Console, *, cut: bool = False) -> None:
    """What a run will take, and whether it fits; `cut`: it is not known yet what would make it fit."""
    rows = [(f"memory: {name}", f"{size / 1e9:.2f} GB") for name, size in found.parts.items() if size >= 5e6]
    rows += [
        ("memory, in all", f"{found.memory / 1e9:.2f} GB of {found.limit / 1e9:.1f} GB"),
        ("updates", f"{found.updates:,}"),
        ("tokens", f"{found.tokens:,}, of which {found.computed:,} are computed"),
        ("disk", f"{found.disk / 1e9:.2f} GB"),
    ]
    if found.seconds is not None and found.seconds_per_update is not None:
        rows += [("an update", f"{found.seconds_per_update:.2f} s"), ("all updates", _duration(found.seconds))]
    rows += [("energy", f"{found.energy:,.0f} Wh")] if found.energy is not None else []
    rows += [("cost", f"{found.cost:,.2f}")] if found.cost is not None else []
    console.print(table(f"{recipe} on {found.device}", ["what", "it takes"], rows))
    if not found.measured:
        speed = "" if found.seconds is None else "; its speed is its datasheet's"
        console.print(f"[yellow]note[/] counted, not measured{speed}")
    if found.fits:
        console.print(f"[green]It fits.[/] Run it: bottega train {escape(recipe)}", soft_wrap=True)
        return
    console.print("[bold red]It does not fit.[/]")
    for advice in found.advice:
        console.print(f"with {escape(advice.change)} it takes {advice.memory / 1e9:.2f} GB, and fits:")
        console.print(f"    bottega train {escape(recipe)} {escape(advice.change)}", soft_wrap=True)
    if not found.advice and not cut:
        console.print("No change tried makes it fit: take a smaller model, or shorter rows (data.max_length).")


COUNSEL = {"tune": "bold green", "don't": "bold red", "inconclusive": "bold yellow"}


def show_counsel(found: bottega.Counsel, console: Console) -> None:
    """Whether to fine-tune, and all that is known of it."""
    rows = [(name, f"{value:.3f}", "") for name, value in found.without.items()]
    rows += [
        (
            f"tuned on {point.rows:,} rows",
            f"{point.value:.3f}",
            f"{point.updates:,} updates, {_duration(point.seconds)}",
        )
        for point in found.points
    ]
    rows += [
        (
            f"expected of {one.rows:,} rows",
            f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})",
            f"{one.passes:.1f} passes, {_duration(one.seconds)}",
        )
        for one in found.expected
    ]
    console.print(
        table(
            f"{bottega.metric_label(found.metric)}, {'more' if found.higher else 'less'} is better",
            ["", "", "training"],
            rows,
        )
    )
    console.print(Text(found.sentence, COUNSEL[found.outcome]))
    if found.saved is not None and found.saved > 0:
        console.print(f"A request would read {found.saved:,.0f} tokens fewer than with the best prompt.")
    if found.repaid is not None:
        console.print(f"Training on all rows would be earned back in time after {found.repaid:,.0f} requests.")
    for what, name, licence in found.licences:
        console.print(f"{what} {escape(name)}: {escape(licence)}", style="dim")


def _duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


SEVERITY = {"error": "bold red", "warning": "yellow", "note": "cyan"}
SHOWN = 3
"""Places that a finding shows; all the others are in `--json`."""


@contextmanager
def progress(message: str) -> Iterator[bottega.StatusCallback]:
    """A live line of how far a long piece of work is; gives what to tell it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"), TimeRemainingColumn())
    with Progress(*columns, console=progress_console(), transient=True) as shown:
        task = shown.add_task(message, total=None, now="")

        def tell(message: str, done: int = 0, total: int | None = None) -> None:
            if shown.tasks[0].description != message:
                shown.reset(task, description=message)
            shown.tasks[0].total = total  # what is passed as None is left as it was
            now = f"{done:,}" if done else ""
            shown.update(task, completed=done, now=now + (f" of {total:,}" if done and total else ""))

        yield tell


def show_audit(found: bottega.Audit, data: Sequence[str], fix: Path | None, console: Console) -> None:
    """What is wrong, the worst first; what the rows are like; what was not checked; what to do next."""
    beside = "".join(f", against {count:,} of {escape(name)}" for name, count in found.against.items())
    console.print(f"[bold]{found.rows:,} rows[/]{beside}; {found.seconds:.1f} s\n")
    for one in found.findings:
        severity = (f"{one.severity:9}", SEVERITY[one.severity])
        console.print(Text.assemble(severity, (one.kind, "bold"), f"  {one.count:,} ×"))
        console.print(_indented(one.what))
        more = f" and {one.count - SHOWN:,} more" if one.count > SHOWN else ""
        if one.examples:
            console.print(_indented("; ".join(one.examples[:SHOWN]) + more), style="dim")
        if "bottega " in one.fix:  # a command is left in one line, to be copied
            console.print(f"         → {escape(one.fix)}\n", soft_wrap=True)
        else:
            console.print(_indented(f"→ {one.fix}\n"))
    if not found.findings:
        console.print("Nothing was found.\n", style="green")
    for name, counts in found.shape.items():
        _show_counts(name, counts, console)
    for name, why in found.unchecked.items():
        console.print(f"[dim]not checked[/] {name.replace('_', ' ')}: {escape(why)}")
    if found.cleaned is not None and fix is not None:
        kept, removed, repaired = found.cleaned
        console.print(f"\n{fix}: {kept:,} rows kept, {removed:,} removed, {repaired:,} repaired", markup=False)
        console.print(f"why, row by row: {fix.with_suffix('.log.jsonl')}", markup=False)
    elif any(one.mend for one in found.findings):
        command = f"bottega audit {shlex.join(data)} --fix clean.jsonl"
        console.print(f"\na cleaned copy: {command}", markup=False, soft_wrap=True)


def _indented(text: str) -> Padding:
    """What is said of a finding, under its name: lines end between words."""
    return Padding(Text(text), (0, 0, 0, 9))


def _show_counts(name: str, counts: Sequence[tuple[str, int]], console: Console) -> None:
    """A bar for each, the first ones of many."""
    total = sum(count for _, count in counts)
    few = counts[:BARS]
    console.print(bars(f"{name} ({len(counts)})" if len(counts) > BARS else name, [(one, n / total) for one, n in few]))
    console.print()


COMPARED = {"run", "before", "its", "difference", "difference, 95 %", "rows", "finding"}
LISTED = {"step", "steps", "loss", "validation loss"}
NUMBERS = COMPARED | LISTED
"""Heads of columns whose cells are never broken."""


def table(title: str, columns: list[str], rows: Iterable[Iterable[Any]]) -> Table:
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        # Names give way first, so that no number is broken.
        shown.add_column(column, overflow="fold", no_wrap=place > 0 and column in NUMBERS)
    for row in rows:
        shown.add_row(*(escape(str(cell)) for cell in row))
    return shown


def bars(title: str, shares: Iterable[tuple[str, float]]) -> Table:
    """A line for each name with its share, as a bar and in percent."""
    shown = table(title, ["", "", ""], [])
    for name, share in shares:
        shown.add_row(Text(name, LEARNED), "█" * max(1, round(40 * share)), f"{share:.1%}")
    shown.show_header = False
    return shown


def results_console() -> Console:
    """Where results go; piped, as wide as they need, or as COLUMNS says."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(highlight=False, width=wide)
