"""The command line: arguments → API calls. Progress goes to stderr, results to stdout.

Exit codes: 0 done, 2 the user's input, 1 anything else. Heavy imports stand inside the commands, so that `--help`
answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    help="The workshop where a small language model learns its trade.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
tokenizers = typer.Typer(help="Train a tokenizer.", no_args_is_help=True)
app.add_typer(tokenizers, name="tokenizer")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value …]", help="For example optim.lr=1e-4")]


Name = Annotated[str, typer.Argument(metavar="MODEL", help="A run, a folder or a hub id.")]
Tokens = Annotated[int, typer.Option("--tokens", help="Most tokens of an answer.", min=1)]
Temperature = Annotated[float, typer.Option(help="0 is greedy.", min=0)]
TopK = Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.", min=0)]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that make up this probability.", max=1)]
MinP = Annotated[float, typer.Option(help="Keep tokens with this share of the likeliest's probability.", min=0, max=1)]
Penalty = Annotated[float, typer.Option(help="Above 1: tokens seen before are less likely.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends an answer; may be given several times.")]
Seed = Annotated[int, typer.Option(help="The same seed draws the same.")]
System = Annotated[str, typer.Option(help="System prompt.")]


def main() -> None:
    app()


@app.command()
def train(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe; not needed with --resume.")] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/<name>-<n>.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue this run, exactly.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and encode every row, write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run a recipe, or continue a run."""
    with _errors(as_json):
        if dry_run:
            _dry_run(_load(recipe, overrides), as_json)
            return
        folder = _resume(resume, recipe, overrides, out) if resume else _train(recipe, overrides, out)
        _result(folder, as_json)


@app.command()
def preview(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(help="How many examples.", min=1)] = 3,
    as_json: Json = False,
) -> None:
    """Show rows as the model will see them: its tokens, and which of them carry loss."""
    from dataclasses import asdict

    with _errors(as_json):
        import bottega

        with _reading():
            shown = bottega.preview(_load(recipe, overrides), rows)
        if as_json:
            print(json.dumps(asdict(shown)))
            return
        from bottega.terminal import results_console, show_preview

        show_preview(shown, results_console())


@app.command()
def generate(
    model: Name,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT …]", help="Default: lines of input.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Each prompt is a question to answer, not text to go on.")
    ] = False,
    system: System = "",
    number: Annotated[int, typer.Option("--number", "-n", help="Continuations of each prompt.", min=1)] = 1,
    tokens: Tokens = 256,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    stop: Stop = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Continue prompts, all in one batch."""
    with _errors(as_json):
        settings = _sampling(tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed)
        asked = prompts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
        loaded = _loaded(model)
        turns = [[*_system_turn(system), {"role": "user", "content": prompt}] for prompt in asked] if chat else asked
        with _busy(f"writing {len(asked) * number} continuations"):
            written = loaded.generate(turns, settings, continuations=number)
        for prompt, found in zip(asked, written, strict=True):
            for continuation in found:
                if as_json:
                    shown = {
                        "text": continuation.text,
                        "reason": continuation.reason,
                        "tokens": len(continuation.tokens),
                    }
                    print(json.dumps({"prompt": prompt, **shown}, ensure_ascii=False))
                else:
                    print(continuation.text if chat else prompt + continuation.text, end="\n\n")


@app.command()
def chat(
    model: Name,
    system: System = "",
    compare: Annotated[bool, typer.Option("--compare", help="The model it was tuned from answers too.")] = False,
    tokens: Tokens = 256,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    stop: Stop = None,
    seed: Seed = 0,
) -> None:
    """Talk to a model; /help lists what can be done besides talking."""
    with _errors(False):
        settings = _sampling(tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed)
        from bottega.chat import Conversation
        from bottega.terminal import results_console

        console = results_console()
        conversation = Conversation(_loaded(model), settings, console, system=system)
        if compare:
            conversation.run(["/compare"])
        console.print("/help lists the commands, /quit leaves", style="dim")
        conversation.run(_typed())


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Another seed invents another world.")] = 0,
    language: Annotated[Literal["en", "it"], typer.Option(help="Of the invented world.")] = "en",
    out: Annotated[Path, typer.Option(help="Folder; an earlier demo in it is replaced.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """The whole life of a small model in five minutes: tokenizer, pre-training, fine-tuning, alignment, evaluation."""
    with _errors(as_json):
        from bottega.demo import demo as live
        from bottega.terminal import progress_console, results_console, show_demo, watch

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
    characters: Annotated[bool, typer.Option("--characters", help="One token a character, instead of BPE.")] = False,
    as_json: Json = False,
) -> None:
    """Train a byte-level BPE (or character) tokenizer on files."""
    with _errors(as_json):
        from bottega.data.tokenizer import train_tokenizer

        kind: Literal["bytes", "characters"] = "characters" if characters else "bytes"
        size = train_tokenizer(files, vocab, out, kind, progress=sys.stderr.isatty())
        if as_json:
            print(json.dumps({"out": str(out), "vocabulary": size}))
        else:
            print(f"{out}: {size} entries\nuse it: model: {{shape: …, tokenizer: {out}}}")


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Where runs stand.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs, the newest last."""
    with _errors(as_json):
        from bottega.runs import summaries

        found = list(summaries(folder))
        if as_json:
            print(json.dumps(found))
        elif not found:
            print(f"no runs in {folder}; start one: bottega train recipe.yaml")
        else:
            from bottega.terminal import results_console, table

            columns = ["run", "status", "step", "steps", "loss", "validation_loss"]
            rows = [[_cell(run[name]) for name in columns] for run in found]
            results_console().print(table("", columns, rows))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Tell what this machine can do, and what would make it faster."""
    with _errors(as_json):
        from bottega.doctor import examine

        facts = examine()
        if as_json:
            print(json.dumps(facts))
            return
        from bottega.terminal import results_console, table

        flat = [(key, value) for key, value in facts.items() if not isinstance(value, dict) and key != "advice"]
        flat += [(f"{key} {name}", value) for key in ("versions", "gflops") for name, value in facts[key].items()]
        console = results_console()
        console.print(table("", ["what", "here"], flat))
        for line in facts["advice"]:
            console.print(f"[yellow]advice[/] {line}")


def _sampling(
    tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    stop: list[str] | None,
    seed: int,
) -> Any:
    from pydantic import ValidationError

    from bottega.errors import RecipeError
    from bottega.sampling import Sampling

    try:
        return Sampling(
            tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            stop=tuple(stop or ()),
            seed=seed,
        )
    except ValidationError as error:
        problem = error.errors()[0]
        where = f"--{problem['loc'][0]}".replace("_", "-")
        raise RecipeError(problem["msg"], where=where, fix="see bottega generate --help") from None


def _loaded(name: str) -> Any:
    """The model to talk to, with a sign of life while it loads."""
    with _busy(f"loading {name}"):
        import bottega

        return bottega.load(name)


def _system_turn(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": text}] if text else []


def _typed() -> Iterator[str]:
    """Lines the user types, with a prompt where one types; the end of the input, or Ctrl-C, ends them."""
    while True:
        try:
            yield input("   you › " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return


def _load(path: Path | None, overrides: list[str] | None) -> Any:
    from bottega.errors import RecipeError
    from bottega.recipe import Recipe

    if path is None:
        raise RecipeError("no recipe given", fix="bottega train recipe.yaml, or bottega train --resume RUN")
    return Recipe.load(path, *(overrides or []))


def _train(path: Path | None, overrides: list[str] | None, out: Path | None) -> Path:
    from bottega.loop import train
    from bottega.runs import free_folder, written

    recipe = _load(path, overrides)
    assert path is not None
    folder = out or free_folder(recipe.name)
    _follow(train(recipe, folder, written=written(path, tuple(overrides or []))), folder)
    return folder


def _resume(folder: Path, path: Path | None, overrides: list[str] | None, out: Path | None) -> Path:
    from bottega.errors import RunError
    from bottega.loop import resume
    from bottega.runs import check_run, stored_recipe

    check_run(folder)
    if path is not None and "=" in path.name and not path.exists():
        raise RunError(
            f"a run is continued as it is, without {path}",
            where=str(folder),
            fix="leave it away, or start a new run from the recipe",
        )
    if out is not None:
        raise RunError("--out and --resume exclude each other", where=str(folder), fix="leave --out away")
    if path is not None and _load(path, overrides) != stored_recipe(folder):
        raise RunError(
            "the recipe given is not the one the run began with",
            where=str(folder),
            fix=f"continue the run as it is: bottega train --resume {folder}; or start another without --resume",
        )
    _follow(resume(folder), folder)
    return folder


def _follow(events: Iterator[Any], folder: Path) -> None:
    from bottega.terminal import progress_console, watch

    console = progress_console()
    console.print(f"run {folder}", style="bold", markup=False)
    try:
        for _ in watch(events, console):
            pass
    except KeyboardInterrupt:
        print(f"\nstopped; continue it: bottega train --resume {folder}", file=sys.stderr)
        raise typer.Exit(1) from None


def _dry_run(recipe: Any, as_json: bool) -> None:
    from bottega.survey import survey

    with _reading():
        counts = survey(recipe)
    if as_json:
        print(json.dumps(counts))
        return
    from bottega.terminal import results_console, table

    rows = [(name, value) for name, value in counts.items() if value not in ({}, [])]
    results_console().print(table("", ["what", "count"], rows))
    print("look at the rows: bottega preview …; run it: bottega train … without --dry-run")


def _reading() -> AbstractContextManager[Any]:
    return _busy("reading and encoding rows")


def _busy(words: str) -> AbstractContextManager[Any]:
    """A sign of life while something goes on."""
    from bottega.terminal import progress_console

    return progress_console().status(words)


def _result(folder: Path, as_json: bool) -> None:
    from bottega.runs import summary

    result = summary(folder)
    if as_json:
        print(json.dumps(result))
        return
    losses = {name: result[name] for name in ("loss", "validation_loss") if result[name] is not None}
    print(
        f"{folder}/{result['result']}: " + ", ".join(f"{name.replace('_', ' ')} {v:.4f}" for name, v in losses.items())
    )
    print(f"see all runs: bottega runs {folder.parent}")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


@contextmanager
def _errors(as_json: bool) -> Iterator[None]:
    """Show a bottega error as what, where and what to do, and exit with its code."""
    from bottega.errors import BottegaError

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        yield
    except BottegaError as error:
        if as_json:
            shown = {"error": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
            print(json.dumps(shown))
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
