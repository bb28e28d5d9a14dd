"""Commands that inspect data, runs and the machine: audit, evaluate, advise, show, runs, doctor, build-native."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import bottega
from bottega.cli.app import (
    LOOK,
    FieldMapping,
    FileLayout,
    Json,
    RunFolder,
    app,
    errors,
    options,
    parse_mapping,
    show_if_interrupted,
)

# Columns of `bottega runs`, keys of `bottega runs --json`.
RUN_COLUMNS = ["run", "status", "step", "steps", "loss", "validation_loss"]

# The early-stopped recipe that `bottega advise` prints may take this many times the passes it is expected to take.
PASSES_MARGIN = 2


@app.command(rich_help_panel=LOOK)
def audit(
    data: Annotated[list[str], typer.Argument(metavar="DATA …", help="Files, folders or hub ids; or a recipe.")],
    model: Annotated[
        str | None,
        typer.Option(help="Count tokens with its tokenizer, find rows without loss, and score rows with its weights."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="A test set or benchmark whose rows must not be in DATA. May be repeated."),
    ] = None,
    format: Annotated[str, typer.Option(help="Format of the rows, as data.format in a recipe.")] = "auto",
    map: FieldMapping = None,
    read: FileLayout = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="Run only this check. May be repeated.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="CHECK", help="Skip this check. May be repeated.")] = None,
    near: Annotated[
        float, typer.Option(help="Similarity from which two rows are near duplicates.", min=0.3, max=1.0)
    ] = 0.7,
    fix: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a cleaned copy to this .jsonl, and a log next to it.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 if a finding is an error.")] = False,
    as_json: Json = False,
) -> None:
    """Find problems in data: duplicates, leaks, contradictions, damage, secrets, rows without loss."""
    with errors(as_json):
        from bottega.cli.audit_view import show_audit
        from bottega.cli.console import progress, results_console

        with progress("reading") as tell:
            result = bottega.audit(
                data,
                model=model,
                against=against or (),
                format=format,
                mapping=parse_mapping(map),
                layout=bottega.parse_layout(read or ()),
                only=only or (),
                skip=skip or (),
                near=near,
                fix=fix,
                tell=tell,
            )
        if as_json:
            print(json.dumps(result.document(), ensure_ascii=False))
        else:
            show_audit(result, data, fix, results_console())
        if strict and result.worst() == "error":
            raise typer.Exit(2)


@app.command(rich_help_panel=LOOK)
@options(bottega.EvaluateOptions, "settings")
def evaluate(
    run: RunFolder,
    settings: bottega.EvaluateOptions,
    read: FileLayout = None,
    out: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Folder for the report; default: the run's."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run on held-out rows against its base model and other baselines; writes a report with a verdict."""
    with errors(as_json):
        from bottega.cli.console import progress

        with progress("evaluating") as tell:
            # An error for a folder that is not a run, before any rows are read.
            bottega.show(run)
            # With --data there is no default: a report on other rows would replace that on the run's own.
            folder = out or (run if settings.data is None else None)
            if folder is not None and (refusal := _error_of(lambda: bottega.check_writable(folder))) is not None:
                note = f"note: {refusal.where}: {refusal.what}; the evaluation continues, and its result is printed"
                print(note, file=sys.stderr)
            layout = bottega.parse_layout(read) if read else None
            result = bottega.evaluate(run, **{**dict(settings), "layout": layout}, tell=tell)
            refusal = None
            if folder is not None:
                refusal = _error_of(lambda: bottega.write_report(bottega.build_report(result, tell), folder))
        # Print the result even if the report could not be written: it took minutes.
        if as_json:
            print(json.dumps(result.document()))
        else:
            from bottega.cli.console import results_console
            from bottega.cli.evaluation_view import show_evaluation

            show_evaluation(result, results_console())
        if refusal is not None:
            print(f"error: {refusal}", file=sys.stderr)
            raise typer.Exit(refusal.exit_code)
        if folder is not None and not as_json:
            print(f"\nthe full report: {folder}/report.html")


def _error_of(function: Callable[[], Any]) -> bottega.BottegaError | None:
    """The error a function raises; None if it succeeds."""
    try:
        function()
    except bottega.BottegaError as error:
        return error
    return None


@app.command(rich_help_panel=LOOK)
def advise(
    data: Annotated[str, typer.Argument(metavar="DATA", help="File, folder or hub id of the rows.")],
    model: Annotated[str, typer.Option(help="The model to tune.")],
    objective: Annotated[
        str | None, typer.Option(help="The training objective; default: what the rows suggest.")
    ] = None,
    map: FieldMapping = None,
    read: FileLayout = None,
    rows: Annotated[int, typer.Option(help="Rows to hold out and evaluate on, at most.", min=20)] = 300,
    epochs: Annotated[
        float, typer.Option(help="Passes over all rows that the trial runs may take together.", min=0.1)
    ] = 3.0,
    seed: int = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to keep the trial runs in; default: they are deleted.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether fine-tuning is worth it: evaluate without it, tune on small parts, extrapolate the learning curve."""
    with errors(as_json):
        from bottega.cli.console import progress

        preliminary: list[bottega.Counsel] = []
        show_preliminary = show_if_interrupted(preliminary, lambda counsel: _show_counsel(counsel, as_json))
        with show_preliminary, progress("reading rows") as tell:
            counsel = bottega.advise(
                data,
                model,
                objective=objective,
                mapping=parse_mapping(map),
                layout=bottega.parse_layout(read or ()),
                rows=rows,
                epochs=epochs,
                seed=seed,
                out=out,
                tell=tell,
                so_far=preliminary.append,
            )
        _show_counsel(counsel, as_json)
        if not as_json and counsel.outcome != "don't":
            # The recipe stops early, so that more passes than expected do no harm.
            passes = math.ceil(PASSES_MARGIN * counsel.expected[0].passes)
            overrides = [f"optim.epochs={passes}", "optim.schedule=constant"]
            overrides += [f"data.mapping.{pair}" for pair in map or ()]
            overrides += [f"data.{pair.removeprefix('data.')}" for pair in read or ()]
            print(
                "\nwrite a recipe:  ", shlex.join(["bottega", "init", counsel.kind, "--data", data, "--model", model])
            )
            print("tune on all rows:", shlex.join(["bottega", "train", "recipe.yaml", *overrides]))


def _show_counsel(counsel: bottega.Counsel, as_json: bool) -> None:
    if as_json:
        print(json.dumps(counsel.document()))
        return
    from bottega.cli.console import results_console
    from bottega.cli.planning_view import show_counsel

    show_counsel(counsel, results_console())


@app.command(rich_help_panel=LOOK)
def show(run: RunFolder, as_json: Json = False) -> None:
    """Show a run: its state, curves, notes and result, and what to do next."""
    with errors(as_json):
        overview = bottega.show(run)
        if as_json:
            print(json.dumps(overview.document()))
            return
        from bottega.cli.console import results_console
        from bottega.cli.run_view import show_run

        show_run(overview, results_console())


@app.command(rich_help_panel=LOOK)
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that contains runs.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs, newest last."""
    with errors(as_json):
        summaries = bottega.list_runs(folder)
        if as_json:
            print(json.dumps(summaries))
        elif not summaries:
            print(f"no runs in {folder}; start one: bottega train recipe.yaml")
        else:
            from bottega.cli.console import results_console, table

            rows = [[_format_cell(summary[name]) for name in RUN_COLUMNS] for summary in summaries]
            results_console().print(table("", [name.replace("_", " ") for name in RUN_COLUMNS], rows))
            print(f"inspect one: bottega show {summaries[-1]['run']}")


@app.command(rich_help_panel=LOOK)
def doctor(as_json: Json = False) -> None:
    """Report what this machine can do, and what would make it faster."""
    with errors(as_json):
        facts = bottega.doctor()
        if as_json:
            print(json.dumps(facts))
            return
        from bottega.cli.console import results_console, table

        rows = [(key, value) for key, value in facts.items() if not isinstance(value, dict) and key != "advice"]
        rows += [(f"{key} {name}", value) for key in ("versions", "gflops") for name, value in facts[key].items()]
        console = results_console()
        console.print(table("", ["", ""], [(name.replace("_", " "), _format_fact(value)) for name, value in rows]))
        for line in facts["advice"]:
            console.print(f"[yellow]advice[/] {line}")


@app.command("build-native", rich_help_panel=LOOK)
def build_native() -> None:
    """Compile the operators in C++ with which models train and answer faster on this CPU."""
    with errors(False):
        from bottega.cli.console import results_console

        with results_console().status("compiling, half a minute at most"):
            path = bottega.build_native()
        print(f"built {path}")
        print("models that are opened from now on use it; BOTTEGA_NATIVE=0 in the environment switches it off")


def _format_fact(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _format_cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
