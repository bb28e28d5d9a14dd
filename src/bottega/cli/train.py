"""Commands that teach: train, finetune, init, preview, tokenizer, demo."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

import bottega
from bottega.cli import interruption
from bottega.cli.app import TRAIN, Json, LaidOut, Overrides, app, busy, errors, options, shown_if_stopped
from bottega.cli.flag_aliases import BOOLEANS, translate_arguments
from bottega.cli.hf_flags import Flags

tokenizers = typer.Typer(help="Train a tokenizer.", no_args_is_help=True)
app.add_typer(tokenizers, name="tokenizer", rich_help_panel=TRAIN)


class Underscored(TyperCommand):
    """A command whose options may be written with underscores, and whose switches may be given true or false."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        switches = {name for option in self.params if getattr(option, "is_flag", False) for name in option.opts}
        with errors("--json" in args):
            told = partial(print, "note:", file=sys.stderr)
            return super().parse_args(ctx, list(_plain(translate_arguments(args, switches, told), switches)))


def _plain(args: list[str], switches: set[str]) -> Iterator[str]:
    """The words, with dashes in the names of options; values stay as they are, but a switch's: that decides on it."""
    waiting = list(reversed(args))
    while waiting:
        word = waiting.pop()
        option, equals, value = word.partition("=")
        option = option.replace("_", "-")
        if word == "--":
            yield from [word, *reversed(waiting)]
            return
        if not word.startswith("--"):
            yield word
        elif option not in switches:
            yield option + equals + value
            if not equals and waiting:
                yield waiting.pop()
        else:
            if not equals and waiting and waiting[-1].lower() in BOOLEANS:
                equals, value = "=", waiting.pop()
            if equals and value.lower() not in BOOLEANS:
                raise bottega.RecipeError(
                    f"{value!r} is neither true nor false", where=option, fix=f"{option} alone means true"
                )
            yield from [option] * BOOLEANS.get(value.lower(), True)


@app.command(rich_help_panel=TRAIN)
def train(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe; not needed with --resume.")] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/<name>-<n>.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue this run, exactly.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and encode every row, write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run a recipe, or continue a run."""
    with errors(as_json):
        if dry_run:
            _dry_run(_load(recipe, overrides), as_json)
            return
        begin = partial(_resume, resume) if resume else _train
        _result(begin(recipe, overrides, out, as_json), as_json)


@app.command(rich_help_panel=TRAIN)
def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    overrides: Overrides = None,
    device: Annotated[
        str | None, typer.Option(help="Another device: t4, l4, rtx4090, a100, h100, h200, or its memory: 24GB.")
    ] = None,
    price_hour: Annotated[float | None, typer.Option(help="What an hour of the device costs.", min=0)] = None,
    price_kwh: Annotated[float | None, typer.Option(help="What a kilowatt-hour costs.", min=0)] = None,
    watts: Annotated[float | None, typer.Option(help="What the device draws, where that is not known.", min=0)] = None,
    as_json: Json = False,
) -> None:
    """Tell what a recipe will take before it runs: memory by part, time, disk, energy, money; and what makes it fit."""
    with errors(as_json):
        from bottega.cli.views import progress, results_console, show_plan

        def show(found: bottega.Plan, cut: bool = True) -> None:
            if as_json:
                print(json.dumps(found.document()))
            else:
                show_plan(found, str(recipe), results_console(), cut=cut)

        known: list[bottega.Plan] = []
        with shown_if_stopped(known, show), progress("planning") as tell:
            found = bottega.plan(
                _load(recipe, overrides),
                device=device,
                price_hour=price_hour,
                price_kwh=price_kwh,
                watts=watts,
                tell=tell,
                so_far=known.append,
            )
        show(found, cut=False)


@app.command(cls=Underscored, rich_help_panel=TRAIN)
@options(Flags, "flags")
def finetune(
    flags: Flags,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe, run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune with the flags other tools have: writes a recipe, and runs it."""
    from bottega.cli.hf_flags import ignored_flag_notes, override_document, recipe_document, recipe_text

    found = override_document(recipe_document(flags), overrides or [], Path.cwd())
    recipe = bottega.Recipe.parse(found, where="bottega finetune")
    text = recipe_text(found, sys.argv[1:])
    for note in ignored_flag_notes(flags) if flags.log_level not in ("error", "critical") else ():
        print(f"note: {note}", file=sys.stderr)
    if dry_run:
        print(json.dumps(found) if as_json else text, end="\n" if as_json else "")
        return
    folder = Path(flags.output_path) if flags.output_path else bottega.new_run_folder(recipe.name)
    events = bottega.train(recipe, folder, written=text, stop=interruption.asked)
    _follow(events, folder, as_json, every=flags.logging_steps, level=flags.log_level)
    _result(folder, as_json)


@app.command(rich_help_panel=TRAIN)
def init(
    task: Annotated[str, typer.Argument(help="What the model is to learn: an objective, or a file of rows.")],
    model: Annotated[str | None, typer.Option(help="Hub id, folder, or finished run to start from.")] = None,
    data: Annotated[str | None, typer.Option(help="File or folder of rows, or a dataset's hub id.")] = None,
    read: LaidOut = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("recipe.yaml"),
) -> None:
    """Write a recipe with every key explained."""
    with errors(False):
        text = bottega.init(task, model=model, data=data, layout=bottega.parse_layout(read or ()), folder=out.parent)
        if out.exists():
            raise bottega.RecipeError("is there already", where=str(out), fix="choose another --out")
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise bottega.RecipeError(
                f"cannot be written: {error.strerror}", where=str(out), fix="choose another --out"
            ) from None
        print(f"{out}\nlook at the rows: bottega preview {out}\nrun it:           bottega train {out}")


@app.command(rich_help_panel=TRAIN)
def preview(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(help="How many examples.", min=1)] = 3,
    as_json: Json = False,
) -> None:
    """Show rows as the model will see them: its tokens, and which of them carry loss."""
    with errors(as_json):
        with _reading():
            shown = bottega.preview(_load(recipe, overrides), rows)
        if as_json:
            print(json.dumps(asdict(shown)))
            return
        from bottega.cli.views import results_console, show_preview

        show_preview(shown, results_console())


@app.command(rich_help_panel=TRAIN)
def demo(
    seed: Annotated[int, typer.Option(help="Another seed invents another world.")] = 0,
    language: Annotated[Literal["en", "it"], typer.Option(help="Of the invented world.")] = "en",
    out: Annotated[Path, typer.Option(help="Folder; an earlier demo in it is replaced.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """The whole life of a small model in some minutes: tokenizer, pre-training, fine-tuning, alignment, evaluation."""
    with errors(as_json):
        from bottega.cli.views import progress_console, results_console, show_demo, watch
        from bottega.demo.run import demo as live

        console = progress_console()

        def shown(stage: str, events: Iterator[Any]) -> Iterator[Any]:
            console.rule(stage, align="left")
            return watch(events, console)

        done = live(out, seed=seed, language=language, watch=shown, busy=console.status)
        if as_json:
            print(json.dumps(done.summary))
        else:
            show_demo(done.folder, done.summary, done.conversation, results_console())


@tokenizers.command("train")
def tokenizer_train(
    files: Annotated[list[Path], typer.Argument(help="Text, JSON, JSONL, CSV or TSV.")],
    vocab: Annotated[int, typer.Option(help="Entries in the vocabulary.", min=1)] = 8192,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("tokenizer"),
    kind: Annotated[
        Literal["bytes", "characters", "wordpieces"],
        typer.Option(help="Byte-level BPE; one token a character; or WordPiece with [MASK], for encoders."),
    ] = "bytes",
    fim: Annotated[bool, typer.Option("--fim", help="With tokens to fill in a middle (objective.fim).")] = False,
    span: Annotated[bool, typer.Option("--span", help="With tokens for what is left out (objective span).")] = False,
    as_json: Json = False,
) -> None:
    """Train a tokenizer on files."""
    with errors(as_json):
        size = bottega.train_tokenizer(files, vocab, out, kind, fim=fim, span=span, progress=sys.stderr.isatty())
        if as_json:
            print(json.dumps({"out": str(out), "vocabulary": size}))
        else:
            print(f"{out}: {size} entries\nuse it: model: {{shape: …, tokenizer: {out}}}")


def _load(path: Path | None, overrides: list[str] | None) -> Any:
    if path is None:
        raise bottega.RecipeError("no recipe given", fix="bottega train recipe.yaml, or bottega train --resume RUN")
    if bottega.resolve(path).is_run:
        fix = (
            f"go on with it: bottega train --resume {path}; or start another like it: bottega train {path}/recipe.yaml"
        )
        raise bottega.RunError("that is a run, not a recipe", where=str(path), fix=fix)
    return bottega.Recipe.load(path, *(overrides or []))


def _train(path: Path | None, overrides: list[str] | None, out: Path | None, as_json: bool) -> Path:
    recipe = _load(path, overrides)
    assert path is not None
    folder = out or bottega.new_run_folder(recipe.name)
    text = bottega.recipe_text(path, tuple(overrides or []))
    _follow(bottega.train(recipe, folder, written=text, stop=interruption.asked), folder, as_json)
    return folder


def _resume(folder: Path, path: Path | None, overrides: list[str] | None, out: Path | None, as_json: bool) -> Path:
    status = bottega.show(folder).summary["status"]
    if path is not None and "=" in path.name and not path.exists():
        raise bottega.RunError(
            f"a run is continued as it is, without {path}",
            where=str(folder),
            fix="leave it away, or start a new run from the recipe",
        )
    if out is not None:
        raise bottega.RunError("--out and --resume exclude each other", where=str(folder), fix="leave --out away")
    if path is not None and _load(path, overrides) != bottega.stored_recipe(folder):
        raise bottega.RunError(
            "the recipe given is not the one the run began with",
            where=str(folder),
            fix=f"continue the run as it is: bottega train --resume {folder}; or start another without --resume",
        )
    _follow(bottega.resume(folder, stop=interruption.asked), folder, as_json)
    if status == "finished":
        print(f"{folder} was finished before; nothing is left to do", file=sys.stderr)
        if changed := bottega.edited_recipe_note(folder):
            print(f"note {changed}", file=sys.stderr)
    return folder


def _follow(
    events: Iterator[Any], folder: Path, as_json: bool, *, every: int | None = None, level: str = "info"
) -> None:
    """Show a run as it goes; below the level of info, its notes at most. Interrupted says how to go on with it.

    every  updates between lines that stay, where there is no live line
    """
    from bottega.cli.views import progress_console, warn, watch

    console = progress_console(quiet=level in ("error", "critical"))
    if level in ("debug", "info", "passive"):
        console.print(f"run {folder}", style="bold", markup=False)
        shown = watch(events, console, every=1 if level == "debug" else every)
    else:
        shown = warn(events, console)
    try:
        with contextlib.ExitStack() as trains:
            for event in shown:
                if event.type == "started":
                    trains.enter_context(interruption.patiently())
        interruption.check()
    except interruption.Interrupted:
        raise interruption.Interrupted(_stopped(folder, as_json)) from None


def _stopped(folder: Path, as_json: bool) -> str:
    """How to go on with a run that was interrupted."""
    if not bottega.resolve(folder).is_run:
        return "stopped before the first update; there is nothing to go on with, and no folder was left"
    found = bottega.show(folder).summary
    if as_json:
        print(json.dumps(dict(found)))
    if found["status"] == "finished":
        return f"stopped, but the run is finished: {folder}/{found['result']}"
    where = f"after update {found['step']} of {found['steps']}" if found["steps"] else "before it began"
    return f"stopped {where}; go on with: bottega train --resume {shlex.quote(str(folder))}"


def _dry_run(recipe: Any, as_json: bool) -> None:
    with _reading():
        counts = bottega.dry_run(recipe)
    if as_json:
        print(json.dumps(counts))
        return
    from bottega.cli.views import results_console, table

    notes = counts.pop("notes")
    rows = [(name.replace("_", " "), _in_words(value)) for name, value in counts.items() if value not in ({}, [])]
    results_console().print(table("", ["what", "count"], rows))
    for note in notes:
        print(f"note {note}")
    print("look at the rows: bottega preview …; run it: bottega train … without --dry-run")


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def _reading() -> Any:
    return busy("reading and encoding rows")


def _result(folder: Path, as_json: bool) -> None:
    overview = bottega.show(folder)
    result = overview.summary
    if as_json:
        print(json.dumps(dict(result)))
        return
    losses = {name: result[name] for name in ("loss", "validation_loss") if result[name] is not None}
    print(
        f"{folder}/{result['result']}: " + ", ".join(f"{name.replace('_', ' ')} {v:.4f}" for name, v in losses.items())
    )
    print(f"its curves: bottega show {folder}")
    print("\n".join(map(str, overview.next_steps)))
