"""Commands that use a model: generate, run, chat, classify, tag, fill, embed."""

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
from bottega.cli.app import USE, Dtype, Json, app, busy, errors, options

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A run, a folder or a hub id.")]
SystemPrompt = Annotated[str, typer.Option(help="System prompt.")]
Texts = Annotated[list[str] | None, typer.Argument(metavar="[TEXT …]", help="Default: lines of standard input.")]

# Temperature of generated text on the command line. The library's own default is greedy.
TEMPERATURE = 0.7


@app.command(rich_help_panel=USE)
@options(bottega.Sampling, "settings", temperature=TEMPERATURE)
def generate(
    settings: bottega.Sampling,
    model: ModelName,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT …]", help="Default: lines of standard input.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Each prompt is a message to answer, not text to continue.")
    ] = False,
    system: SystemPrompt = "",
    number: Annotated[int, typer.Option("--number", "-n", help="Continuations per prompt.", min=1)] = 1,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Continue prompts, all in one batch."""
    language_model = _load_language_model(model, dtype)
    _generate(
        language_model, prompts or _input_lines(), settings, chat=chat, system=system, number=number, as_json=as_json
    )


def _generate(
    language_model: bottega.LanguageModel,
    prompts: Sequence[str],
    settings: bottega.Sampling,
    *,
    chat: bool,
    system: str,
    number: int,
    as_json: bool,
) -> None:
    turns = [[*_system_turn(system), {"role": "user", "content": prompt}] for prompt in prompts]
    with busy(f"generating {len(prompts) * number} continuations"):
        generated = language_model.generate(turns if chat else prompts, settings, continuations=number)
    for prompt, continuations in zip(prompts, generated, strict=True):
        for continuation in continuations:
            if as_json:
                document = {
                    "prompt": prompt,
                    "text": continuation.text,
                    "reason": continuation.reason,
                    "tokens": len(continuation.tokens),
                }
                print(json.dumps(document, ensure_ascii=False))
            else:
                print(continuation.text if chat else prompt + continuation.text, end="\n\n")


@app.command(rich_help_panel=USE)
@options(bottega.Sampling, "settings", temperature=0.0)
def run(
    settings: bottega.Sampling,
    model: Annotated[
        str | None, typer.Argument(metavar="[EXPORT]", help="A folder of `bottega export`, or any model.")
    ] = None,
    texts: Texts = None,
    chat: Annotated[bool, typer.Option("--chat", help="Each text is a message to answer.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "--run-config", help="Instead of EXPORT, do what an Olive run file says.")
    ] = None,
    setup: Annotated[
        bool, typer.Option("--setup", help="With --config, only say whether all that it needs is here.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run an export with the program it was made for: generate, classify, tag, fill or embed, as it was trained."""
    if config is not None:
        from bottega.cli.olive import run_file

        if model is not None or as_json:
            fix = "leave EXPORT, texts and --json out"
            raise bottega.RecipeError("a run file says all that is to be done", where="--config", fix=fix)
        run_file(config, setup=setup)
        return
    if model is None or setup:
        what = "it belongs to --config" if setup else "nothing to run"
        where = "--setup" if setup else "bottega run"
        raise bottega.RecipeError(what, where=where, fix="name an export, or --config FILE")
    texts, head = texts or _input_lines(), bottega.find_head(model)
    if head == "language":
        opened = _load_language_model(model)
        _generate(opened, texts, settings, chat=chat, system="", number=1, as_json=as_json)
    elif head == "sequence":
        classify(model, texts, as_json=as_json)
    elif head == "token":
        tag(model, texts, conll=False, as_json=as_json)
    elif head == "embedding":
        embed(model, texts, out=None, as_json=as_json)
    else:
        _fill(model, texts, 5, as_json)


@app.command(rich_help_panel=USE)
@options(bottega.Sampling, "settings", temperature=TEMPERATURE)
def chat(
    settings: bottega.Sampling,
    model: ModelName,
    system: SystemPrompt = "",
    compare: Annotated[bool, typer.Option("--compare", help="Also print the base model's answers.")] = False,
    dtype: Dtype = "auto",
) -> None:
    """Chat with a model; /help lists the commands."""
    from bottega.cli.chat import Conversation
    from bottega.cli.console import results_console

    console = results_console()
    conversation = Conversation(_load_language_model(model, dtype), settings, console, system=system)
    if compare:
        # Like the user's own command, so that a model without a base is reported and the conversation starts.
        conversation.run(["/compare"])
    console.print("/help lists the commands, /quit leaves", style="dim")
    conversation.run(_typed_lines())


@app.command(rich_help_panel=USE)
def classify(
    model: Annotated[str, typer.Argument(metavar="RUN", help="A run that trained a classifier or a regression.")],
    texts: Texts = None,
    as_json: Json = False,
) -> None:
    """Classify texts, with probabilities; for a regression, predict a number."""
    with errors(as_json):
        texts = texts or _input_lines()
        with busy(f"loading {model}"):
            classifier = bottega.load_classifier(model)
        with busy(f"classifying {len(texts)} texts"):
            if classifier.objective.prediction == "number":
                values = classifier.values(texts)
                results = [({"value": value}, f"{value:.3f}") for value in values]
            else:
                # With several labels per text there may be none.
                results = [
                    (
                        asdict(result),
                        ", ".join(f"{label}\t{result.probabilities[label]:.3f}" for label in result.labels) or "-",
                    )
                    for result in classifier.classify(texts)
                ]
        _note_truncated(classifier.codec)
        _print_results(as_json, texts, results)


@app.command(rich_help_panel=USE)
def tag(
    model: Annotated[str, typer.Argument(metavar="RUN", help="A run that trained a tagger.")],
    texts: Texts = None,
    conll: Annotated[bool, typer.Option("--conll", help="Print one word and its tag per line.")] = False,
    as_json: Json = False,
) -> None:
    """Find entities in texts."""
    with errors(as_json):
        texts = texts or _input_lines()
        _check_not_blank(texts)
        with busy(f"loading {model}"):
            tagger = bottega.load_tagger(model)
        with busy(f"tagging {len(texts)} texts"):
            readings = tagger.read(texts)
        if conll:
            sentences = [
                bottega.to_conll(text, reading.spans, reading.words)
                for text, reading in zip(texts, readings, strict=True)
            ]
            print("\n\n".join(sentences))
            return
        results = []
        for text, (_, spans) in zip(texts, readings, strict=True):
            entities = [{**span._asdict(), "text": text[span.start : span.stop]} for span in spans]
            line = "; ".join(f"{entity['text']} ({entity['label']})" for entity in entities) or "-"
            results.append(({"spans": entities}, line))
        _print_results(as_json, texts, results)


@app.command(rich_help_panel=USE)
def fill(
    model: ModelName,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A text with [MASK] for each missing token.")],
    top: Annotated[int, typer.Option(help="Candidates per mask.", min=1)] = 5,
    as_json: Json = False,
) -> None:
    """Predict the token at each [MASK] with a masked language model."""
    _fill(model, [text], top, as_json)


def _fill(model: str, texts: Sequence[str], top: int, as_json: bool) -> None:
    with errors(as_json):
        with busy(f"loading {model}"):
            masked_lm = bottega.load_masked(model)
        for text in texts:
            _print_candidates(masked_lm.fill(text, top), as_json)


def _print_candidates(masks: Sequence[Sequence[Any]], as_json: bool) -> None:
    if as_json:
        document = [[asdict(candidate) for candidate in candidates] for candidates in masks]
        print(json.dumps(document, ensure_ascii=False))
        return
    from bottega.cli.console import bars, results_console

    for number, candidates in enumerate(masks, 1):
        title = f"[MASK] {number}" if len(masks) > 1 else ""
        fractions = [(candidate.text, candidate.probability) for candidate in candidates]
        results_console().print(bars(title, fractions))


@app.command(rich_help_panel=USE)
def embed(
    model: ModelName,
    texts: Texts = None,
    out: Annotated[Path | None, typer.Option(help="A .npy file for the vectors, [texts, width] in float32.")] = None,
    as_json: Json = False,
) -> None:
    """Embed texts as vectors; without --out, print their cosine similarities."""
    with errors(as_json):
        texts = texts or _input_lines()
        with busy(f"loading {model}"):
            import numpy as np

            embedder = bottega.load_embedder(model)
        with contextlib.ExitStack() as stack:
            # Opened first: a file that cannot be written is reported before the work, not after it.
            file = None if out is None else stack.enter_context(bottega.open_atomic(out))
            with busy(f"embedding {len(texts)} texts"):
                vectors = embedder.embed(texts)  # [N, H], of length 1
            _note_truncated(embedder.codec)
            if file is not None:
                np.save(file, vectors)
        if as_json:
            for text, vector in zip(texts, vectors, strict=True):
                print(json.dumps({"text": text, "vector": vector.tolist()}, ensure_ascii=False))
        elif out is not None:
            print(f"{len(vectors)} vectors of {vectors.shape[1]} numbers written to {out}")
        else:
            from bottega.cli.console import results_console, table

            numbers = [str(number) for number in range(1, len(texts) + 1)]
            rows = [
                [number, text, *(f"{similarity:.2f}" for similarity in row)]
                for number, text, row in zip(numbers, texts, vectors @ vectors.T, strict=True)
            ]
            results_console().print(table("", ["", "text", *numbers], rows))


def _input_lines() -> list[str]:
    """The lines of standard input that are not blank."""
    return [line.rstrip("\n") for line in sys.stdin if line.strip()]


def _check_not_blank(texts: Sequence[str]) -> None:
    """A DataError if there is no text, or a blank one."""
    blank = next((f"text {number}" for number, text in enumerate(texts, 1) if not text.strip()), "")
    if blank or not texts:
        what = "the text is blank" if blank else "no text given"
        where = blank or "the command line and standard input"
        raise bottega.DataError(what, where=where, fix="give a text with at least one word")


def _note_truncated(codec: Any) -> None:
    if codec.tally.truncated:
        reason = f"{codec.tally.truncated} texts are longer than the {codec.max_length} tokens the model reads"
        print(f"note: {reason}: the rest was ignored", file=sys.stderr)


def _print_results(as_json: bool, texts: Sequence[str], results: Sequence[tuple[dict[str, Any], str]]) -> None:
    """Print the result of each text: its fields as JSON, or its line."""
    for text, (fields, line) in zip(texts, results, strict=True):
        print(json.dumps({"text": text, **fields}, ensure_ascii=False) if as_json else f"{line}\t{text}")


def _load_language_model(name: str, dtype: str = "auto") -> bottega.LanguageModel:
    with busy(f"loading {name}"):
        model = bottega.load_language_model(name, dtype=dtype)
    if unused := model.ignored_settings:
        from bottega.cli.console import progress_console

        settings = ", ".join(f"{key}={value}" for key, value in unused.items())
        note = f"note: the checkpoint's generation_config sets {settings}; only options given here are used"
        progress_console().print(note, markup=False)
    return model


def _system_turn(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": text}] if text else []


def _typed_lines() -> Iterator[str]:
    """Lines the user types, until the end of the input or Ctrl-C."""
    while True:
        try:
            # No prompt if the input is piped: it would end up in the output.
            yield input("   you › " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
