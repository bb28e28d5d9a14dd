"""Commands that look: audit, evaluate, show, runs, doctor."""

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
from bottega.cli.app import LOOK, Json, LaidOut, RunFolder, app, errors, options, shown_if_stopped


@app.command(rich_help_panel=LOOK)
def audit(
    data: Annotated[list[str], typer.Argument(metavar="DATA …", help="Files, folders, hub ids; or a recipe.")],
    model: Annotated[
        str | None, typer.Option(help="Count in its tokens, find rows without loss, and score rows by its weights.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="A test set or benchmark that must not stand in DATA; several times.")
    ] = None,
    format: Annotated[str, typer.Option(help="How fields make a row, as data.format in a recipe.")] = "auto",
    map: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="What the file calls a field: label=intent.")
    ] = None,
    read: LaidOut = None,
    only: Annotated[list[str] | None, typer.Option(metavar="CHECK", help="Run this check alone.")] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="CHECK", help="Leave this check out.")] = None,
    near: Annotated[
        float, typer.Option(help="Share in common that makes two rows nearly the same.", min=0.3, max=1.0)
    ] = 0.7,
    fix: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a cleaned copy to this .jsonl, and a log beside it.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 where there is an error.")] = False,
    as_json: Json = False,
) -> None:
    """Look for what is wrong with rows: duplicates, leaks, contradictions, damage, secrets, nothing to learn."""
    with errors(as_json):
        from bottega.cli.views import progress, results_console, show_audit

        with progress("reading") as tell:
            found = bottega.audit(
                data,
                model=model,
                against=against or (),
                format=format,
                mapping=dict(_pair(one) for one in map or ()),
                layout=bottega.parse_layout(read or ()),
                only=only or (),
                skip=skip or (),
                near=near,
                fix=fix,
                tell=tell,
            )
        if as_json:
            print(json.dumps(found.document(), ensure_ascii=False))
        else:
            show_audit(found, data, fix, results_console())
        if strict and found.worst() == "error":
            raise typer.Exit(2)


def _pair(text: str) -> tuple[str, str]:
    ours, sign, theirs = text.partition("=")
    if not sign or not ours or not theirs:
        raise bottega.RecipeError(
            f"not a field and its name in the file: {text}", where="--map", fix="write label=intent"
        )
    return ours, theirs


@app.command(rich_help_panel=LOOK)
@options(bottega.EvaluateOptions, "chosen")
def evaluate(
    run: RunFolder,
    chosen: bottega.EvaluateOptions,
    read: LaidOut = None,
    out: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Where the report goes; default: the run."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run on rows it never saw, beside its base model and other baselines, with a verdict and a report."""
    with errors(as_json):
        from bottega.cli.views import progress

        with progress("evaluating") as tell:
            bottega.show(run)  # refuses a folder that is no run, before rows are read
            # The report of other rows would replace that of the run's own.
            folder = out or (run if chosen.data is None else None)
            if folder is not None and (refused := _refusal(lambda: bottega.check_writable(folder))) is not None:
                print(f"note: {refused.where}: {refused.what}; it is measured all the same, and shown", file=sys.stderr)
            layout = bottega.parse_layout(read) if read else None
            found = bottega.evaluate(run, **{**dict(chosen), "layout": layout}, tell=tell)
            refused = None
            if folder is not None:
                refused = _refusal(lambda: bottega.write_report(bottega.build_report(found, tell), folder))
        # The result is shown first: it took minutes, and the report may not be written.
        if as_json:
            print(json.dumps(found.document()))
        else:
            from bottega.cli.views import results_console, show_evaluation

            show_evaluation(found, results_console())
        if refused is not None:
            print(f"error: {refused}", file=sys.stderr)
            raise typer.Exit(refused.exit_code)
        if folder is not None and not as_json:
            print(f"\nthe whole report: {folder}/report.html")


def _refusal(work: Callable[[], Any]) -> bottega.BottegaError | None:
    """Why the work could not be done; None where it was."""
    try:
        work()
    except bottega.BottegaError as error:
        return error
    return None


@app.command(rich_help_panel=LOOK)
def advise(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Rows: a file, folder or hub id.")],
    model: Annotated[str, typer.Option(help="The model that would be tuned.")],
    objective: Annotated[
        str | None, typer.Option(help="What is to be learned; default: what the rows are for.")
    ] = None,
    map: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="What the file calls a field: label=intent.")
    ] = None,
    read: LaidOut = None,
    rows: Annotated[int, typer.Option(help="Most rows that are held out and asked.", min=20)] = 300,
    epochs: Annotated[
        float, typer.Option(help="Passes over all rows that the parts together may take.", min=0.1)
    ] = 3.0,
    seed: int = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the runs on parts stay; default: nowhere.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell whether to fine-tune: asks the model first, tunes on small parts, and draws the learning curve on."""
    with errors(as_json):
        from bottega.cli.views import progress

        known: list[bottega.Counsel] = []
        with shown_if_stopped(known, lambda found: _show_counsel(found, as_json)), progress("reading rows") as tell:
            found = bottega.advise(
                data,
                model,
                objective=objective,
                mapping=dict(_pair(one) for one in map or ()),
                layout=bottega.parse_layout(read or ()),
                rows=rows,
                epochs=epochs,
                seed=seed,
                out=out,
                tell=tell,
                so_far=known.append,
            )
        _show_counsel(found, as_json)
        if not as_json and found.outcome != "don't":
            # Twice the passes it should take: the recipe ends when it is learned.
            changes = [f"optim.epochs={math.ceil(2 * found.expected[0].passes)}", "optim.schedule=constant"]
            changes += [
                *(f"data.mapping.{one}" for one in map or ()),
                *(f"data.{one.removeprefix('data.')}" for one in read or ()),
            ]
            print("\nwrite the recipe:", shlex.join(["bottega", "init", found.kind, "--data", data, "--model", model]))
            print("tune on all rows:", shlex.join(["bottega", "train", "recipe.yaml", *changes]))


def _show_counsel(found: bottega.Counsel, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.document()))
        return
    from bottega.cli.views import results_console, show_counsel

    show_counsel(found, results_console())


@app.command(rich_help_panel=LOOK)
def show(run: RunFolder, as_json: Json = False) -> None:
    """Show a run: what it is, its curves, what it noted, what came of it."""
    with errors(as_json):
        overview = bottega.show(run)
        if as_json:
            print(json.dumps(overview.document()))
            return
        from bottega.cli.run_view import show_run
        from bottega.cli.views import results_console

        show_run(overview, results_console())


@app.command(rich_help_panel=LOOK)
def runs(
    folder: Annotated[Path, typer.Argument(help="Where runs stand.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs, the newest last."""
    with errors(as_json):
        found = bottega.list_runs(folder)
        if as_json:
            print(json.dumps(found))
        elif not found:
            print(f"no runs in {folder}; start one: bottega train recipe.yaml")
        else:
            from bottega.cli.views import results_console, table

            columns = ["run", "status", "step", "steps", "loss", "validation_loss"]
            rows = [[_cell(run[name]) for name in columns] for run in found]
            results_console().print(table("", [name.replace("_", " ") for name in columns], rows))
            print(f"look at one: bottega show {found[-1]['run']}")


@app.command(rich_help_panel=LOOK)
def doctor(as_json: Json = False) -> None:
    """Tell what this machine can do, and what would make it faster."""
    with errors(as_json):
        facts = bottega.doctor()
        if as_json:
            print(json.dumps(facts))
            return
        from bottega.cli.views import results_console, table

        flat = [(key, value) for key, value in facts.items() if not isinstance(value, dict) and key != "advice"]
        flat += [(f"{key} {name}", value) for key in ("versions", "gflops") for name, value in facts[key].items()]
        flat = [(name.replace("_", " "), _fact(value)) for name, value in flat]
        console = results_console()
        console.print(table("", ["what", "here"], flat))
        for line in facts["advice"]:
            console.print(f"[yellow]advice[/] {line}")


def _fact(value: Any) -> str:
    """What the doctor found, as a person says it."""
    said = {None: "none", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return said[value]
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
