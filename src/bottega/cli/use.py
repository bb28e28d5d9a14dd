"""Commands that use a model: generate, chat, classify, tag, fill, embed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import bottega
from bottega.cli.app import USE, Json, app, busy, errors, options

Name = Annotated[str, typer.Argument(metavar="MODEL", help="A run, a folder or a hub id.")]
System = Annotated[str, typer.Option(help="System prompt.")]


@app.command(rich_help_panel=USE)
@options(bottega.Sampling, "settings", temperature=0.7)
def generate(
    settings: bottega.Sampling,
    model: Name,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT …]", help="Default: lines of input.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Each prompt is a question to answer, not text to go on.")
    ] = False,
    system: System = "",
    number: Annotated[int, typer.Option("--number", "-n", help="Continuations of each prompt.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Continue prompts, all in one batch."""
    asked = prompts or _lines()
    loaded = _loaded(model)
    turns = [[*_system_turn(system), {"role": "user", "content": prompt}] for prompt in asked] if chat else asked
    with busy(f"writing {len(asked) * number} continuations"):
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


@app.command(rich_help_panel=USE)
@options(bottega.Sampling, "settings", temperature=0.7)
def chat(
    settings: bottega.Sampling,
    model: Name,
    system: System = "",
    compare: Annotated[bool, typer.Option("--compare", help="The model it was tuned from answers too.")] = False,
) -> None:
    """Talk to a model; /help lists what can be done besides talking."""
    from bottega.cli.chat import Conversation
    from bottega.cli.views import results_console

    console = results_console()
    conversation = Conversation(_loaded(model), settings, console, system=system)
    if compare:
        conversation.run(["/compare"])
    console.print("/help lists the commands, /quit leaves", style="dim")
    conversation.run(_typed())


@app.command(rich_help_panel=USE)
def classify(
    model: Annotated[str, typer.Argument(metavar="RUN", help="A run that ended in a classifier or a regression.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT …]", help="Default: lines of input.")] = None,
    as_json: Json = False,
) -> None:
    """Name the class of texts, with its probability; or the number, of a regression."""
    with errors(as_json):
        asked = texts or _lines()
        with busy(f"loading {model}"):
            loaded = bottega.load_classifier(model)
        with busy(f"classifying {len(asked)} texts"):
            if loaded.objective.kind == "regress":
                _print(as_json, asked, [({"value": value}, f"{value:.3f}") for value in loaded.values(asked)])
                _tell_cut(loaded.codec)
                return
            found = loaded.classify(asked)
        _tell_cut(loaded.codec)
        shown = [", ".join(f"{label}\t{one.probabilities[label]:.3f}" for label in one.labels) or "-" for one in found]
        _print(as_json, asked, [(asdict(one), line) for one, line in zip(found, shown, strict=True)])


@app.command(rich_help_panel=USE)
def tag(
    model: Annotated[str, typer.Argument(metavar="RUN", help="A run that ended in a tagger.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT …]", help="Default: lines of input.")] = None,
    conll: Annotated[bool, typer.Option("--conll", help="A word and its tag a line, instead of entities.")] = False,
    as_json: Json = False,
) -> None:
    """Mark the entities in texts."""
    with errors(as_json):
        asked = texts or _lines()
        _refuse_blank(asked)
        with busy(f"loading {model}"):
            loaded = bottega.load_tagger(model)
        with busy(f"tagging {len(asked)} texts"):
            read = loaded.read(asked)
        if conll:
            print(
                "\n\n".join(bottega.to_conll(text, one.spans, one.words) for text, one in zip(asked, read, strict=True))
            )
            return
        shown = []
        for text, (_, spans) in zip(asked, read, strict=True):
            listed = [{**span._asdict(), "text": text[span.start : span.stop]} for span in spans]
            shown.append(({"spans": listed}, "; ".join(f"{one['text']} ({one['label']})" for one in listed) or "-"))
        _print(as_json, asked, shown)


@app.command(rich_help_panel=USE)
def fill(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a folder or a hub id.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="With [MASK] where a word is missing.")],
    top: Annotated[int, typer.Option(help="Candidates for each place.", min=1)] = 5,
    as_json: Json = False,
) -> None:
    """Show what a masked language model takes for likely at each [MASK]."""
    with errors(as_json):
        with busy(f"loading {model}"):
            loaded = bottega.load_masked(model)
        found = loaded.fill(text, top)
        if as_json:
            print(json.dumps([[asdict(one) for one in place] for place in found], ensure_ascii=False))
            return
        from bottega.cli.views import bars, results_console

        for place, candidates in enumerate(found, 1):
            title = f"[MASK] {place}" if len(found) > 1 else ""
            results_console().print(bars(title, [(one.text, one.probability) for one in candidates]))


@app.command(rich_help_panel=USE)
def embed(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a folder or a hub id.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT …]", help="Default: lines of input.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .npy file for the vectors, [texts, width] in float32.")] = None,
    as_json: Json = False,
) -> None:
    """Make a vector of each text; without --out, show how alike the texts are."""
    with errors(as_json):
        asked = texts or _lines()
        with busy(f"loading {model}"):
            import numpy as np

            loaded = bottega.load_embedder(model)
        with contextlib.ExitStack() as opened:
            file = None if out is None else opened.enter_context(bottega.open_atomic(out))  # before the work is done
            with busy(f"embedding {len(asked)} texts"):
                found = loaded.embed(asked)
            _tell_cut(loaded.codec)
            if file is not None:
                np.save(file, found)
        if as_json:
            for text, vector in zip(asked, found, strict=True):
                print(json.dumps({"text": text, "vector": vector.tolist()}, ensure_ascii=False))
        elif out is not None:
            print(f"{len(found)} vectors of {found.shape[1]} numbers in {out}")
        else:
            from bottega.cli.views import results_console, table

            numbers = [str(number) for number in range(1, len(asked) + 1)]
            rows = [
                [number, text, *(f"{value:.2f}" for value in row)]
                for number, text, row in zip(numbers, asked, found @ found.T, strict=True)
            ]
            results_console().print(table("", ["", "text", *numbers], rows))


def _lines() -> list[str]:
    """The lines of the input that say something."""
    return [line.rstrip("\n") for line in sys.stdin if line.strip()]


def _refuse_blank(texts: Sequence[str]) -> None:
    """A DataError where there is no text, or one that says nothing."""
    where = next((f"text {number}" for number, text in enumerate(texts, 1) if not text.strip()), "")
    if where or not texts:
        what = "nothing but white space" if where else "no text"
        raise bottega.DataError(
            what, where=where or "the command line and the input", fix="give a text that says something"
        )


def _tell_cut(codec: Any) -> None:
    if codec.truncated:
        told = f"note: {codec.truncated} texts are longer than the {codec.max_length} tokens the model reads"
        print(f"{told}: only their beginning was read", file=sys.stderr)


def _print(as_json: bool, texts: Sequence[str], found: Sequence[tuple[dict[str, Any], str]]) -> None:
    """What was found of each text, as JSON or as a line."""
    for text, (fields, line) in zip(texts, found, strict=True):
        print(json.dumps({"text": text, **fields}, ensure_ascii=False) if as_json else f"{line}\t{text}")


def _loaded(name: str) -> Any:
    """The model to talk to, with a sign of life while it loads."""
    with busy(f"loading {name}"):
        loaded = bottega.load(name)
    if passed_over := loaded.unheeded:
        from bottega.cli.views import progress_console

        said = ", ".join(f"{key}={value}" for key, value in passed_over.items())
        what = f"the checkpoint's generation_config also says {said}: not done unless asked for here"
        progress_console().print(what, markup=False)
    return loaded


def _system_turn(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": text}] if text else []


def _typed() -> Iterator[str]:
    """Lines the user types, with a prompt where one types; the end of the input, or Ctrl-C, ends them."""
    while True:
        try:
            yield input("   you › " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
