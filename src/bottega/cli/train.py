"""Commands that train, or prepare training: train, plan, finetune, init, preview, demo, tokenizer."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import bottega
from bottega.cli import interruption
from bottega.cli.app import TRAIN, FileLayout, Json, Overrides, app, busy, errors, options, show_if_interrupted
from bottega.cli.flag_aliases import translate_arguments
from bottega.cli.hf_flags import Flags
from bottega.cli.underscores import UnderscoreCommand

tokenizers = typer.Typer(help="Train a tokenizer.", no_args_is_help=True)
app.add_typer(tokenizers, name="tokenizer", rich_help_panel=TRAIN)

RecipePath = Annotated[Path, typer.Argument(help="The recipe.")]


class FinetuneCommand(UnderscoreCommand):
    """Takes the flags of other tools."""

    def translate(self, args: list[str], switches: set[str]) -> list[str]:
        return translate_arguments(args, switches, partial(print, "note:", file=sys.stderr))


@app.command(rich_help_panel=TRAIN)
def train(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe; not needed with --resume.")] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/<name>-<n>.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue this run where it stopped.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and encode every row, write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model as a recipe says, or continue a run."""
    with errors(as_json):
        several = _several(recipe, overrides, resume)
        if dry_run:
            for one in several.values() if several else [_load_recipe(recipe, overrides)]:
                _print_dry_run(one, as_json)
            return
        if several is not None:
            _print_several(_train_several(several, recipe, out, resume, as_json), as_json)
            return
        start = partial(_resume, resume) if resume else _train
        _print_result(start(recipe, overrides, out, as_json), as_json)


@app.command(rich_help_panel=TRAIN)
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    device: Annotated[
        str | None, typer.Option(help="Another device: t4, l4, rtx4090, a100, h100, h200, or its memory: 24GB.")
    ] = None,
    price_hour: Annotated[float | None, typer.Option(help="Price of an hour of the device.", min=0)] = None,
    price_kwh: Annotated[float | None, typer.Option(help="Price of a kilowatt-hour.", min=0)] = None,
    watts: Annotated[float | None, typer.Option(help="Power of the device, if it is not known.", min=0)] = None,
    as_json: Json = False,
) -> None:
    """Estimate what a recipe will take: memory, time, disk, energy, money; and what would make it fit."""
    with errors(as_json):
        from bottega.cli.console import progress, results_console
        from bottega.cli.planning_view import show_plan

        def show(plan: bottega.Plan, preliminary: bool = True) -> None:
            if as_json:
                print(json.dumps(plan.document()))
            else:
                show_plan(plan, str(recipe), results_console(), preliminary=preliminary)

        preliminary: list[bottega.Plan] = []
        with show_if_interrupted(preliminary, show), progress("planning") as tell:
            result = bottega.plan(
                _load_recipe(recipe, overrides),
                device=device,
                price_hour=price_hour,
                price_kwh=price_kwh,
                watts=watts,
                tell=tell,
                so_far=preliminary.append,
            )
        show(result, preliminary=False)


@app.command(cls=FinetuneCommand, rich_help_panel=TRAIN)
@options(Flags, "flags")
def finetune(
    flags: Flags,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe, train nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune with flags named as in other tools; writes a recipe and trains with it."""
    from bottega.cli.hf_flags import ignored_flag_notes, override_document, recipe_document, recipe_text

    document = override_document(recipe_document(flags), overrides or [], Path.cwd())
    recipe = bottega.Recipe.parse(document, where="bottega finetune")
    text = recipe_text(document, sys.argv[1:])
    for note in ignored_flag_notes(flags) if flags.log_level not in ("error", "critical") else ():
        print(f"note: {note}", file=sys.stderr)
    if dry_run:
        print(json.dumps(document) if as_json else text, end="\n" if as_json else "")
        return
    folder = Path(flags.output_path) if flags.output_path else bottega.new_run_folder(recipe.name)
    events = bottega.train(recipe, folder, written=text, stop=interruption.stop_requested)
    _follow(events, folder, as_json, every=flags.logging_steps, level=flags.log_level)
    _print_result(folder, as_json)


@app.command(rich_help_panel=TRAIN)
def init(
    task: Annotated[str, typer.Argument(help="A training objective, or a file of rows that suggests one.")],
    model: Annotated[str | None, typer.Option(help="Hub id, folder or finished run to start from.")] = None,
    data: Annotated[str | None, typer.Option(help="File, folder or hub id of the rows.")] = None,
    read: FileLayout = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("recipe.yaml"),
) -> None:
    """Write a recipe with every key explained."""
    with errors(False):
        text = bottega.init(task, model=model, data=data, layout=bottega.parse_layout(read or ()), folder=out.parent)
        if out.exists():
            raise bottega.RecipeError("already exists", where=str(out), fix="choose another --out")
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise bottega.RecipeError(
                f"cannot be written: {error.strerror}", where=str(out), fix="choose another --out"
            ) from None
        print(f"wrote {out}\npreview the rows: bottega preview {out}\ntrain:            bottega train {out}")


@app.command(rich_help_panel=TRAIN)
def preview(
    recipe: RecipePath,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(help="Number of examples.", min=1)] = 3,
    as_json: Json = False,
) -> None:
    """Show rows as the model will see them: the tokens, and which of them carry loss."""
    with errors(as_json):
        with _reading_rows():
            examples = bottega.preview(_load_recipe(recipe, overrides), rows)
        if as_json:
            print(json.dumps(asdict(examples)))
            return
        from bottega.cli.console import results_console
        from bottega.cli.preview_view import show_preview

        show_preview(examples, results_console())


@app.command(rich_help_panel=TRAIN)
def demo(
    seed: Annotated[int, typer.Option(help="Seed of the invented world.")] = 0,
    language: Annotated[Literal["en", "it"], typer.Option(help="Language of the invented world.")] = "en",
    out: Annotated[Path, typer.Option(help="Folder; an earlier demo in it is replaced.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Take a small model through all stages in minutes: tokenizer, pre-training, fine-tuning, alignment, evaluation."""
    with errors(as_json):
        from bottega.cli.console import progress_console, results_console
        from bottega.cli.demo_view import show_demo
        from bottega.cli.training_view import watch
        from bottega.demo.run import run_demo

        console = progress_console()

        def watch_stage(stage: str, events: Iterator[bottega.Event]) -> Iterator[bottega.Event]:
            console.rule(stage, align="left")
            return watch(events, console)

        result = run_demo(out, seed=seed, language=language, watch=watch_stage, busy=console.status)
        if as_json:
            print(json.dumps(result.summary))
        else:
            show_demo(result.folder, result.summary, result.conversation, results_console())


@tokenizers.command("train")
def tokenizer_train(
    files: Annotated[list[Path], typer.Argument(help="Text, JSON, JSONL, CSV or TSV.")],
    vocab: Annotated[int, typer.Option(help="Size of the vocabulary.", min=1)] = 8192,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("tokenizer"),
    kind: Annotated[
        Literal["bytes", "characters", "wordpieces"],
        typer.Option(help="Byte-level BPE; one token per character; or WordPiece with [MASK], for encoders."),
    ] = "bytes",
    fim: Annotated[bool, typer.Option("--fim", help="Add fill-in-the-middle tokens (objective.fim).")] = False,
    span: Annotated[bool, typer.Option("--span", help="Add sentinel tokens (objective span).")] = False,
    as_json: Json = False,
) -> None:
    """Train a tokenizer on files."""
    with errors(as_json):
        size = bottega.train_tokenizer(files, vocab, out, kind, fim=fim, span=span, progress=sys.stderr.isatty())
        if as_json:
            print(json.dumps({"out": str(out), "vocabulary": size}))
        else:
            print(f"wrote {out}, {size} tokens\nuse it in a recipe: model: {{shape: …, tokenizer: {out}}}")


def _load_recipe(path: Path | None, overrides: list[str] | None) -> bottega.Recipe:
    if path is None:
        raise bottega.RecipeError("no recipe given", fix="bottega train recipe.yaml, or bottega train --resume RUN")
    if bottega.resolve(path).is_run:
        fix = f"continue it: bottega train --resume {path}; or train again: bottega train {path}/recipe.yaml"
        raise bottega.RunError("this is a run, not a recipe", where=str(path), fix=fix)
    return bottega.Recipe.load(path, *(overrides or []))


def _several(path: Path | None, overrides: list[str] | None, resume: Path | None) -> dict[str, bottega.Recipe] | None:
    """The recipes of adapters that are trained at once, by name; None if it is one run that is trained or continued."""
    if resume is not None:
        names = bottega.trained_together(resume)
        if names and (path is not None or overrides):
            fix = "leave everything out but --resume, or start new runs from the recipe"
            raise bottega.RunError("runs are resumed with their own recipes", where=str(resume), fix=fix)
        return {name: bottega.stored_recipe(resume / name) for name in names} or None
    if path is None or not path.is_file():
        return None
    return bottega.load_several(path, *(overrides or [])) or None


def _train_several(
    recipes: dict[str, bottega.Recipe], path: Path | None, out: Path | None, resume: Path | None, as_json: bool
) -> list[Path]:
    """Train adapters at once, or continue them; returns the folders of the runs."""
    from bottega.cli.console import progress_console
    from bottega.cli.training_view import watch_several

    if resume is not None and out is not None:
        raise bottega.RunError("--out and --resume exclude each other", where=str(resume), fix="leave --out out")
    folder = resume or out or bottega.new_run_folder(path.stem if path is not None else "run")
    console = progress_console()
    console.print(f"{len(recipes)} runs in {folder}", style="bold", markup=False)
    start = bottega.resume_together if resume else partial(bottega.train_together, recipes)
    try:
        with contextlib.ExitStack() as stack:
            for _, event in watch_several(start(folder, stop=interruption.stop_requested), console):
                if isinstance(event, bottega.Started):
                    stack.enter_context(interruption.deferred())
        interruption.check()
    except interruption.Interrupted:
        if not bottega.trained_together(folder):
            raise interruption.Interrupted("stopped before the first update; nothing was saved") from None
        how = f"stopped; continue with: bottega train --resume {shlex.quote(str(folder))}"
        raise interruption.Interrupted(how) from None
    return [folder / name for name in recipes]


def _print_several(folders: list[Path], as_json: bool) -> None:
    """What each run came to, and what to do next."""
    summaries = [bottega.show(folder).summary for folder in folders]
    if as_json:
        print(json.dumps([dict(summary) for summary in summaries]))
        return
    from bottega.cli.console import results_console, table

    rows = [
        (str(folder), *(_format_loss(summary[name]) for name in ("loss", "validation_loss")))
        for folder, summary in zip(folders, summaries, strict=True)
    ]
    results_console().print(table("", ["run", "loss", "validation loss"], rows))
    first = shlex.quote(str(folders[0]))
    print(f"evaluate: bottega evaluate {first}\ncompare:  bottega adapter compare {shlex.join(map(str, folders))}")


def _format_loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _train(path: Path | None, overrides: list[str] | None, out: Path | None, as_json: bool) -> Path:
    """Train as a recipe says; returns the folder of the run."""
    recipe = _load_recipe(path, overrides)
    assert path is not None
    folder = out or bottega.new_run_folder(recipe.name)
    text = bottega.recipe_text(path, tuple(overrides or []))
    _follow(bottega.train(recipe, folder, written=text, stop=interruption.stop_requested), folder, as_json)
    return folder


def _resume(folder: Path, path: Path | None, overrides: list[str] | None, out: Path | None, as_json: bool) -> Path:
    """Continue a run; a recipe that is given must be the run's own. Returns the folder of the run."""
    status = bottega.show(folder).summary["status"]
    # The first argument is the recipe: without one, an override ends up in its place.
    if path is not None and "=" in path.name and not path.exists():
        raise bottega.RunError(
            f"a run is resumed with its own recipe, {path} cannot change it",
            where=str(folder),
            fix="leave the override out, or start a new run from the recipe",
        )
    if out is not None:
        raise bottega.RunError("--out and --resume exclude each other", where=str(folder), fix="leave --out out")
    if path is not None and _load_recipe(path, overrides) != bottega.stored_recipe(folder):
        raise bottega.RunError(
            "the recipe differs from that of the run",
            where=str(folder),
            fix=f"continue the run as it is: bottega train --resume {folder}; or start a new one without --resume",
        )
    _follow(bottega.resume(folder, stop=interruption.stop_requested), folder, as_json)
    if status == "finished":
        print(f"{folder} was already finished; there is nothing left to do", file=sys.stderr)
        if note := bottega.edited_recipe_note(folder):
            print(f"note: {note}", file=sys.stderr)
    return folder


def _follow(
    events: Iterator[bottega.Event], folder: Path, as_json: bool, *, every: int | None = None, level: str = "info"
) -> None:
    """Show a run while it trains; Interrupted, with how to continue it, if it is stopped.

    every  updates between lines that stay, as for `watch`
    level  above info only notes are shown, above warning nothing
    """
    from bottega.cli.console import progress_console
    from bottega.cli.training_view import warn, watch

    console = progress_console(quiet=level in ("error", "critical"))
    if level in ("debug", "info", "passive"):
        console.print(f"run {folder}", style="bold", markup=False)
        events = watch(events, console, every=1 if level == "debug" else every)
    else:
        events = warn(events, console)
    try:
        with contextlib.ExitStack() as stack:
            for event in events:
                # From its start on the run stops by itself, between micro-batches; an exception would lose the update.
                if isinstance(event, bottega.Started):
                    stack.enter_context(interruption.deferred())
        interruption.check()
    except interruption.Interrupted:
        raise interruption.Interrupted(_how_to_continue(folder, as_json)) from None


def _how_to_continue(folder: Path, as_json: bool) -> str:
    """How to continue a run that was interrupted."""
    if not bottega.resolve(folder).is_run:
        return "stopped before the first update; nothing was saved"
    summary = bottega.show(folder).summary
    if as_json:
        print(json.dumps(dict(summary)))
    if summary["status"] == "finished":
        return f"stopped, but the run is finished: {folder}/{summary['result']}"
    when = f"after update {summary['step']} of {summary['steps']}" if summary["steps"] else "before the first update"
    return f"stopped {when}; continue with: bottega train --resume {shlex.quote(str(folder))}"


def _print_dry_run(recipe: bottega.Recipe, as_json: bool) -> None:
    with _reading_rows():
        counts = bottega.dry_run(recipe)
    if as_json:
        print(json.dumps(counts))
        return
    from bottega.cli.console import results_console, table

    notes = counts.pop("notes")
    rows = [(name.replace("_", " "), _format_count(value)) for name, value in counts.items() if value not in ({}, [])]
    results_console().print(table(recipe.name, ["", "count"], rows))
    for note in notes:
        print(f"note: {note}")
    print("preview the rows: bottega preview …\ntrain:            bottega train … without --dry-run")


def _format_count(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def _reading_rows() -> AbstractContextManager[Any]:
    return busy("reading and encoding rows")


def _print_result(folder: Path, as_json: bool) -> None:
    overview = bottega.show(folder)
    summary = overview.summary
    if as_json:
        print(json.dumps(dict(summary)))
        return
    losses = [
        f"{name.replace('_', ' ')} {summary[name]:.4f}"
        for name in ("loss", "validation_loss")
        if summary[name] is not None
    ]
    print(f"{folder}/{summary['result']}: {', '.join(losses)}")
    print(f"its curves: bottega show {folder}")
    print("\n".join(map(str, overview.next_steps)))
