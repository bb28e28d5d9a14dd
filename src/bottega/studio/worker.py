"""The process of a task: `python -m bottega.studio.worker FOLDER`.

One function a verb: it gets the arguments of the task, tells what it does, and returns what came of it. All of them are
the verbs of the library, as the command line uses them.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bottega
from bottega.demo.run import PRETRAIN, prepare
from bottega.demo.world import World
from bottega.studio.datasets import DataSets
from bottega.studio.labels import LabelSessions
from bottega.studio.tasks import FAILURE, PROGRESS, RESULT, STOP, StudioTask

# Seconds between two reports of progress, and between looks at whether to stop.
REPORT_SECONDS = 0.3

Result = Mapping[str, Any]

# Fields of rows that hold a prompt, and prompts that are answered together.
PROMPT_FIELDS = ("prompt", "instruction", "question", "text", "input")
ANSWERED_AT_ONCE = 16


class _StopRequested(Exception):
    """The task was asked to stop."""


@dataclass
class _Teller:
    """Writes what a task does into its folder, and raises `_StopRequested` when it is asked to stop."""

    folder: Path
    last: float = 0.0

    def __call__(self, message: str, done: int = 0, total: int | None = None) -> None:
        now = time.monotonic()
        if now - self.last < REPORT_SECONDS:
            return
        self.last = now
        bottega.write_json(
            self.folder / PROGRESS, {"message": message, "done": done, "total": total, "time": time.time()}
        )
        if self.should_stop():
            raise _StopRequested

    def should_stop(self) -> bool:
        return (self.folder / STOP).exists()


def _import_data(arguments: Mapping[str, Any], tell: _Teller) -> Result:
    """A file that was uploaded becomes a data set."""
    upload = Path(arguments["path"])
    source = bottega.Source.model_validate({"path": str(upload), **arguments.get("layout", {})})
    sets = DataSets(Path(arguments["folder"]))
    origin = ("upload", {"file": arguments["file"]})
    version = sets.write(arguments["name"], bottega.read_rows([source]), origin, tell, upload.stat().st_size)
    upload.unlink()
    return {"name": arguments["name"], "version": version.number}


def _audit(arguments: Mapping[str, Any], tell: _Teller) -> Result:
    """What is wrong with the rows of a data set."""
    found = bottega.audit(
        arguments["path"],
        model=arguments.get("model"),
        against=arguments.get("against", ()),
        format=arguments.get("format", "auto"),
        mapping=arguments.get("mapping"),
        tell=tell,
    )
    document = found.document()
    for finding, shown in zip(found.findings, document["findings"], strict=True):
        shown["rows"] = finding.rows[:SHOWN_ROWS].tolist()
    return document


def _fix(arguments: Mapping[str, Any], tell: _Teller) -> Result:
    """A cleaned copy of a data set, as its next version."""
    sets = DataSets(Path(arguments["folder"]))
    copy = tell.folder / "clean.jsonl"
    found = bottega.audit(
        arguments["path"],
        format=arguments.get("format", "auto"),
        mapping=arguments.get("mapping"),
        only=arguments.get("only", ()),
        fix=copy,
        tell=tell,
    )
    kept, removed, repaired = found.cleaned or (0, 0, 0)
    origin = ("fix", {"of": arguments["version"], "removed": removed, "repaired": repaired})
    source = bottega.Source(path=str(copy))
    version = sets.write(arguments["name"], bottega.read_rows([source]), origin, tell, copy.stat().st_size)
    copy.unlink()
    # The copy has the fields of the version that it was made of.
    if reading := {key: arguments[key] for key in ("format", "mapping") if key in arguments}:
        sets.choose_reading(arguments["name"], version.number, reading)
    return {"name": arguments["name"], "version": version.number, "kept": kept, "removed": removed}


def _train(arguments: Mapping[str, Any], tell: _Teller) -> Result:
    """A run, from its recipe, or from where it was stopped."""
    run = Path(arguments["run"])
    if arguments.get("resume"):
        events = bottega.resume(run, stop=tell.should_stop)
    else:
        recipe = bottega.Recipe.parse(arguments["recipe"])
        events = bottega.train(recipe, out=run, written=arguments.get("written"), stop=tell.should_stop)
    return _follow(events, tell, run)


def _follow(events: Iterator[bottega.Event], tell: _Teller, run: Path) -> Result:
    total = None
    bottega.write_json(tell.folder / PROGRESS, {"message": "loading", "done": 0, "total": None, "time": time.time()})
    for event in events:
        if isinstance(event, bottega.Started):
            total = event.steps
        # Not through the teller, which would end the run at once instead of in order.
        if isinstance(event, bottega.Stepped) and time.monotonic() - tell.last >= REPORT_SECONDS:
            tell.last = time.monotonic()
            progress = {"message": "training", "done": event.step, "total": total, "time": time.time()}
            bottega.write_json(tell.folder / PROGRESS, progress)
    if bottega.resolve(run).result is None:
        raise _StopRequested
    return {"run": str(run)}


def _plan(arguments: Mapping[str, Any], tell: _Teller) -> Result:
    """What a recipe will take, measured."""
    return bottega.plan(bottega.Recipe.parse(arguments["recipe"]), tell=tell).document()


def _evaluate(arguments: Mapping[str, Any], tell: _Teller) -> Result:
    """The verdict on a run, and its report."""
    run = Path(arguments["run"])
    report = bottega.report(run, out=run, tell=tell, **arguments.get("options", {}))
    return {"run": str(run), "verdict": report.evaluation.verdict.sentence}


def _export(arguments: Mapping[str, Any], tell: _Teller) -> Result:
    """A run in the format of another program."""
    done = bottega.export(arguments["run"], arguments["out"], format=arguments["format"], tell=tell)
    return {"folder": str(done.folder)}


def _tokenizer(arguments: Mapping[str, Any], tell: _Teller) -> Result:
    """A tokenizer of its own."""
    out = Path(arguments["out"])
    tell("training a tokenizer")
    bottega.train_tokenizer([Path(path) for path in arguments["files"]], arguments["size"], out)
    return {"folder": str(out)}


def _answers(arguments: Mapping[str, Any], tell: _Teller) -> Result:
    """Pairs of answers to the prompts of a data set, for people to choose between."""
    prompts = list(_prompts(Path(arguments["path"]), arguments["count"], arguments.get("mapping", {})))
    sources, count = arguments["sources"], 2 if len(arguments["sources"]) == 1 else 1
    written: list[list[str]] = [[] for _ in prompts]
    for place, source in enumerate(sources):
        tell(f"loading {source}")
        model = bottega.load_language_model(source)
        settings = bottega.Sampling(
            tokens=arguments["tokens"], temperature=arguments["temperature"], seed=arguments["seed"] + place
        )
        for first in range(0, len(prompts), ANSWERED_AT_ONCE):
            tell("writing answers", place * len(prompts) + first, len(sources) * len(prompts))
            turns = [[{"role": "user", "content": prompt}] for prompt in prompts[first : first + ANSWERED_AT_ONCE]]
            for number, found in enumerate(model.generate(turns, settings, continuations=count), first):
                written[number] += [one.text.strip() for one in found]
    pairs = [
        {"prompt": prompt, "first": first, "second": second}
        for prompt, (first, second) in zip(prompts, written, strict=True)
        # Between two that are the same there is nothing to choose.
        if first != second
    ]
    if not pairs:
        fix = "raise the temperature, or take another model"
        raise bottega.DataError("both answers are the same for every prompt", where=arguments["name"], fix=fix)
    models = arguments["models"] if len(sources) == 2 else arguments["models"] * 2
    LabelSessions(Path(arguments["folder"])).create(arguments["name"], models, pairs)
    return {"session": arguments["name"], "pairs": len(pairs)}


def _prompts(path: Path, count: int, mapping: Mapping[str, str]) -> Iterator[str]:
    """The first different prompts of a file, whatever its rows are; `mapping`: what their fields are called."""
    seen = set[str]()
    for _, row in bottega.read_rows([bottega.Source(path=str(path))]):
        if isinstance(row, bottega.BottegaError):
            continue
        prompt = prompt_of({**row, **{name: row.get(field) for name, field in mapping.items()}})
        if prompt and prompt not in seen:
            seen.add(prompt)
            yield prompt
        if len(seen) == count:
            return
    if not seen:
        names = ", ".join(PROMPT_FIELDS)
        raise bottega.DataError(
            "no prompts in the rows", where=str(path), fix=f"name a field one of: {names}, messages"
        )


def prompt_of(row: Mapping[str, Any]) -> str:
    """The prompt of a row: a field that is called so, or the first message of a user; empty if there is none."""
    for name in PROMPT_FIELDS:
        if isinstance(row.get(name), str) and row[name].strip():
            more = row.get("input")
            return (
                f"{row[name]}\n{more}" if name == "instruction" and isinstance(more, str) and more else str(row[name])
            )
    messages = row.get("messages")
    users = (
        [one.get("content") for one in messages if isinstance(one, dict) and one.get("role") == "user"]
        if isinstance(messages, list)
        else []
    )
    return next((content for content in users if isinstance(content, str)), "")


def _demo(arguments: Mapping[str, Any], tell: _Teller) -> Result:
    """Data sets of an invented world, and a small model that has read its documents."""
    run, made = Path(arguments["run"]), Path(arguments["made"]) / Path(arguments["run"]).name
    tell("writing data and a tokenizer")
    prepare(World(arguments["seed"], arguments["language"]), made)
    sets = DataSets(Path(arguments["data"]))
    for path in sorted(made.glob("*.jsonl")):
        rows = bottega.read_rows([bottega.Source(path=str(path))])
        sets.write(f"demo-{path.stem.replace('_', '-')}", rows, ("demo", {}), tell)
    document = {"name": "demo-base", "seed": arguments["seed"], **PRETRAIN}
    recipe = bottega.Recipe.parse(document, folder=made)
    return _follow(bottega.train(recipe, out=run, stop=tell.should_stop), tell, run)


VERBS: dict[str, Callable[[Mapping[str, Any], _Teller], Result]] = {
    "import": _import_data,
    "audit": _audit,
    "fix": _fix,
    "train": _train,
    "plan": _plan,
    "evaluate": _evaluate,
    "export": _export,
    "demo": _demo,
    "answers": _answers,
    "tokenizer": _tokenizer,
}

# Rows of a finding that the studio lists.
SHOWN_ROWS = 1000


def main(folder: Path) -> int:
    """Do the task in a folder; the exit code."""
    task, tell = StudioTask.read(folder), _Teller(folder)
    try:
        with bottega.configured_process():
            result = VERBS[task.verb](task.arguments, tell)
        bottega.write_json(folder / RESULT, dict(result))
        return 0
    except _StopRequested:
        bottega.write_json(folder / FAILURE, {"stopped": True})
    except Exception as error:
        traceback.print_exc()
        bottega.write_json(folder / FAILURE, describe(error))
    return 1


def describe(error: Exception) -> dict[str, Any]:
    """An error as the studio shows it: its class, what is wrong, where, and what to do."""
    known = error if isinstance(error, bottega.BottegaError) else bottega.from_system_error(error)
    if known is None:
        return {"kind": "Unexpected", "what": f"{type(error).__name__}: {error}", "where": None, "fix": None}
    return {"kind": type(known).__name__, "what": known.what, "where": known.where, "fix": known.fix}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
