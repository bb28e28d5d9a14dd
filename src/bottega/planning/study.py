"""Training runs on growing parts of the same rows, each evaluated on the same held-out rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bottega import objectives
from bottega.data.sampler import DEFAULT_EXAMPLES
from bottega.errors import DataError
from bottega.evaluation.contamination import find_leaked_rows
from bottega.evaluation.evaluate import Evaluation, evaluate
from bottega.planning.init import init
from bottega.progress import StatusCallback, update_reporter
from bottega.recipe.schema import Recipe
from bottega.records import Record
from bottega.records.parser import parse_rows
from bottega.training.trials import run_trial, vary

# The smallest part as a fraction of the training rows (at least an update's worth), and all parts as multiples of it.
SMALLEST_PART, PART_SIZES = 0.05, (1, 2, 4)

# Below this many rows, a twentieth of them teaches nothing.
MIN_ROWS = 100

# Updates to the full learning rate, which then stays constant: when a part is learned is not known beforehand.
WARMUP = 20

# Validations of a run, at most; PATIENCE in a row without an improvement end it.
VALIDATIONS, PATIENCE = 20, 2

# Validation rows, at most.
MAX_VALIDATION_ROWS = 200

# Answers that are generated to measure what a request costs.
GENERATED_ANSWERS = 50

# More evaluation rows than any file has: all of them.
ALL_ROWS = 10**9

# (location, fields) of a row.
LocatedRow = tuple[str, dict[str, Any]]


class TrainedPart(NamedTuple):
    """A run on part of the rows, evaluated; updates and seconds up to the weights it kept.

    done  whether the loss had stopped improving before the updates ran out
    """

    rows: int
    run: Path
    recipe: Recipe
    evaluation: Evaluation
    updates: int
    seconds: float
    done: bool


@dataclass(frozen=True)
class Study:
    """Runs on parts of the training rows, with the same validation rows and the same evaluation rows.

    folder  holds the rows as train.jsonl, validation.jsonl, evaluation.jsonl and part<rows>.jsonl, and the runs
    kind    the objective
    """

    folder: Path
    kind: str
    model: str
    seed: int
    tell: StatusCallback

    def split_rows(
        self, rows: Sequence[LocatedRow], evaluation_rows: int, path: str
    ) -> tuple[list[Sequence[LocatedRow]], Sequence[LocatedRow]]:
        """(parts, all training rows); evaluation and validation rows are held out and written to files.

        Every part contains every label, and no evaluation row also is a training row. A DataError if there are too few.
        """
        first = self._first_of_each_label(rows)
        with_label, indices = [rows[index] for index in first], set(first)
        others = [row for index, row in enumerate(rows) if index not in indices]
        evaluation_end = min(evaluation_rows, len(rows) // 5)
        validation_end = evaluation_end + min(MAX_VALIDATION_ROWS, len(rows) // 10)
        # A row of each label comes first, so that even the smallest part has them all.
        training = [*with_label, *others[validation_end:]]
        smallest = max(DEFAULT_EXAMPLES, len(with_label), round(SMALLEST_PART * len(training)))
        if len(rows) < MIN_ROWS or PART_SIZES[-1] * smallest > len(training):
            labels = f" with {len(with_label)} labels" if with_label else ""
            fix = "tune on all of them with validation: 0.2, then run: bottega evaluate RUN"
            raise DataError(f"{len(rows)} rows{labels} are too few for a learning curve", where=path, fix=fix)
        evaluation = others[:evaluation_end]
        leaked = find_leaked_rows(list(self._records(evaluation)), self._records(training))
        write_rows(self.path("evaluation"), [row for index, row in enumerate(evaluation) if index not in leaked])
        write_rows(self.path("validation"), others[evaluation_end:validation_end])
        write_rows(self.path("train"), training)
        return [training[: size * smallest] for size in PART_SIZES], training

    def train_parts(self, parts: Sequence[Sequence[LocatedRow]], updates: int) -> Iterator[TrainedPart]:
        """Train on each part, starting from the result of the part before, which saves its time.

        updates  the most each may take
        """
        previous: TrainedPart | None = None
        for part in parts:
            # Baselines are the same for all parts: the first evaluation has them.
            previous = self.train_part(part, updates, previous, baselines=previous is None)
            yield previous

    def train_part(
        self,
        rows: Sequence[LocatedRow],
        updates: int,
        previous: TrainedPart | None = None,
        *,
        baselines: bool = False,
    ) -> TrainedPart:
        """Train on rows until the loss stops improving, and evaluate.

        previous   what to start from; None: the model
        baselines  also evaluate what needs no tuning: the model as it is, few-shot prompts, and the nearest of all
                   training rows
        """
        name = f"part{len(rows)}"
        run, data = self.folder / name, write_rows(self.path(name), rows)
        recipe = self._recipe(data, updates, previous)
        trial = run_trial(recipe, run, on_event=update_reporter(self.tell, f"tuning on {len(rows):,} rows"))
        assert trial.finished is not None
        last_step, best_step = trial.finished.step, trial.finished.weights_from
        evaluation = evaluate(
            run,
            str(self.path("evaluation")),
            rows=ALL_ROWS,
            against=None if baselines else (),
            answers=GENERATED_ANSWERS if baselines else 0,
            known=[str(self.path("train"))],
            tell=self.tell,
        )
        # Updates after the best validation changed nothing of the result.
        updates_kept = [update for update in trial.updates if update.step <= best_step]
        seconds = sum(update.seconds for update in updates_kept)
        return TrainedPart(len(rows), run, recipe, evaluation, len(updates_kept), seconds, done=best_step < last_step)

    def path(self, name: str) -> Path:
        """The file of rows with this name."""
        return self.folder / f"{name}.jsonl"

    def _recipe(self, data: Path, updates: int, previous: TrainedPart | None) -> Recipe:
        """The recipe `bottega init` writes, with early stopping."""
        document = yaml.safe_load(init(self.kind, model=self.model, data=str(data)))
        overrides: dict[str, Any] = {"seed": self.seed, "save": None}
        if previous is not None and "adapter" in document:
            overrides["adapter"] = {"from": str(previous.run)}
        elif previous is not None:
            overrides["model.base"] = str(previous.run)
        overrides |= {"data.train": str(data), "data.validation": str(self.path("validation"))}
        # A schedule that decays needs to know the last update, and the run ends when it stops improving.
        overrides |= {"optim.epochs": None, "optim.steps": updates, "optim.schedule": "constant"}
        overrides["optim.warmup"] = WARMUP
        overrides["evaluate"] = {"every": max(WARMUP, updates // VALIDATIONS), "stop_after": PATIENCE}
        return Recipe.parse(vary(document, overrides), folder=Path.cwd())

    def _records(self, rows: Sequence[LocatedRow]) -> Iterator[Record]:
        return parse_rows(iter(rows), objectives.load(self.kind).reads)

    def _first_of_each_label(self, rows: Sequence[LocatedRow]) -> list[int]:
        """Indices of the first row with each label; empty if the objective has no labels."""
        objective = objectives.load(self.kind)
        if not objective.stratify and objective.head != "token":
            return []
        first: dict[str, int] = {}
        for index, record in enumerate(self._records(rows)):
            for label in record.label_names:
                first.setdefault(label, index)
        return sorted(set(first.values()))


def write_rows(path: Path, rows: Sequence[LocatedRow]) -> Path:
    """Write the fields of rows as JSONL; returns the path."""
    # str: dates, which Parquet files may contain, have no JSON.
    path.write_text("".join(json.dumps(fields, default=str) + "\n" for _, fields in rows), encoding="utf-8")
    return path
