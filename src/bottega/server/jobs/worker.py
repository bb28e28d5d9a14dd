"""The process of a job: `python -m bottega.server.jobs.worker prepare|train|start FOLDER PIPE`.

`prepare` checks the files and writes the recipe; `train` runs it, or goes on with a run that was stopped; `start` does
both, but waits in between until it is told to go on, which saves a second process its imports. What it has to tell
stands in files of the job's folder, which are complete or absent. The process ends with its server: it holds the
reading end of a pipe, which closes when the server goes, however it goes.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import bottega
from bottega.server.errors import words_of
from bottega.server.jobs.recipes import make_recipe, resolve_hyperparameters, updates_per_pass
from bottega.server.jobs.rows import InvalidFile, check_file

# Files of a job's folder.
SPEC, PREPARED, FAILURE = "job.json", "prepared.json", "failure.json"
TRAINING, VALIDATION, RECIPE, RUN = "training.jsonl", "validation.jsonl", "recipe.yaml", "run"

# Exit codes: done, failed (`failure.json` says why), stopped before it was done.
DONE, FAILED, STOPPED = 0, 1, 3

# The bytes by which the server asks to stop, in order, with a checkpoint; and to train what is prepared.
STOP, GO = b"s", b"g"


@dataclass(frozen=True)
class JobSpec:
    """What a job is about, as its process reads it. `judges`: where the models are that its grader names."""

    name: str
    method: str
    source: str
    seed: int
    training_file: str
    validation_file: str | None
    hyperparameters: dict[str, Any]
    min_examples: int
    grader: dict[str, Any] | None = None
    judges: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into the folder of the job."""
        bottega.write_json(folder / SPEC, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> JobSpec:
        """What `write` wrote."""
        return cls(**bottega.read_json(folder / SPEC))


def prepare(folder: Path) -> None:
    """Check the files, and write the recipe and the numbers that "auto" became."""
    spec = JobSpec.read(folder)
    rows = check_file(
        folder / TRAINING, spec.method, "training_file", spec.training_file, min_examples=spec.min_examples
    )
    validation = folder / VALIDATION if spec.validation_file is not None else None
    if validation is not None and spec.validation_file is not None:
        check_file(validation, spec.method, "validation_file", spec.validation_file, min_examples=1)
    resolved = resolve_hyperparameters(spec.method, spec.hyperparameters, rows)
    recipe = make_recipe(
        name=spec.name,
        method=spec.method,
        source=spec.source,
        seed=spec.seed,
        rows=rows,
        hyperparameters=resolved,
        grader=None if spec.grader is None else bottega.parse_grader(spec.grader).renamed(spec.judges).model_dump(),
        training=folder / TRAINING,
        validation=validation,
    )
    with bottega.open_atomic(folder / RECIPE) as file:
        file.write(bottega.recipe_yaml(recipe).encode())
    # Counted and not tried: a trial would take time and memory from what is served and trained meanwhile.
    plan = bottega.plan(recipe, measured=False)
    # Last: once it is there, the job is prepared.
    foreseen = {"memory": plan.memory, "memory_limit": plan.limit}
    per_pass = updates_per_pass(rows, resolved)
    prepared = {"rows": rows, "hyperparameters": resolved, "updates_per_pass": per_pass, **foreseen}
    bottega.write_json(folder / PREPARED, prepared)


def train(folder: Path, stop: threading.Event) -> int:
    """Train, or go on; the exit code."""
    run = folder / RUN
    if (run / "recipe.yaml").exists():
        events = bottega.resume(run, stop=stop.is_set)
    else:
        events = bottega.train(bottega.Recipe.load(folder / RECIPE), out=run, stop=stop.is_set)
    for _ in events:
        pass
    return DONE if bottega.resolve(run).result is not None else STOPPED


def _listen(pipe: int, told: threading.Event, stop: threading.Event) -> None:
    """Note what the server says; end at once when it is gone."""
    while word := os.read(pipe, 1):
        if word == STOP:
            stop.set()
        told.set()
    os._exit(STOPPED)


def main(arguments: list[str]) -> int:
    """The verb, the folder and the number of the pipe."""
    verb, folder, told, stop = arguments[0], Path(arguments[1]), threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(int(arguments[2]), told, stop), daemon=True).start()
    try:
        with bottega.configured_process():
            if verb != "train":
                prepare(folder)
            if verb == "prepare":
                return DONE
            if verb == "start":
                told.wait()
                if stop.is_set():
                    return STOPPED
            return train(folder, stop)
    except InvalidFile as error:
        bottega.write_json(folder / FAILURE, error.document)
    except bottega.BottegaError as error:
        files = ((TRAINING, "training_file"), (VALIDATION, "validation_file"))
        param = next((param for name, param in files if name in (error.where or "")), None)
        bottega.write_json(
            folder / FAILURE, {"code": type(error).__name__, "message": words_of(error, folder), "param": param}
        )
    return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
