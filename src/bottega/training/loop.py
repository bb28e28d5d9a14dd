"""The training loop: train a recipe or resume a run, as a generator of events.

Closing the generator stops the run at once. If `stop` returns true, the run saves a checkpoint of its last update
first. torch is imported only after the run folder exists, so that a run killed from then on can be resumed.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.errors import CheckpointError, RunError
from bottega.events import Event, Failed, Finished, Noted, Saved, Stepped, Validated
from bottega.hardware import memory, other_programs
from bottega.hardware.other_programs import LoadWatch, SlowdownDetector
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import commit_folder, verify_folder
from bottega.runs.store import RunStore, edited_recipe_note, recipe_yaml
from bottega.runs.tensorboard import check_report_packages, event_writer
from bottega.training.due import Due
from bottega.training.run_history import RunHistory

if TYPE_CHECKING:
    from bottega.data.sampler import Update
    from bottega.training.setup import Run, Share
    from bottega.training.step import PendingUpdate
    from bottega.training.validation import Validation

# Step and position of a checkpoint.
STATE = "state.json"

# Subject of the note that updates without contrast were skipped, which is given once.
PASSED_OVER = "passed over"

# Returns whether the run should stop; called between micro-batches.
Stop = Callable[[], bool]


class _Stopped(Exception):
    """`stop` returned true; the gradient of the update in progress is lost."""


def never() -> bool:
    return False


def train(
    recipe: Recipe, out: str | Path | None = None, *, written: str | None = None, stop: Stop = never
) -> Generator[Event, None, None]:
    """Run a recipe in a new folder (`out`, or `runs/<name>-<n>`), yielding its events as they happen.

    A run that fails or is stopped before its first update leaves no folder.

    written  the text of the recipe, kept as `recipe.yaml` with its comments
    stop     called between micro-batches: once it returns true, a checkpoint of the last update is saved and the run
             ends
    """
    check_report_packages(recipe)
    with RunStore.create(recipe, written or recipe_yaml(recipe), Path(out) if out else None) as run:
        try:
            yield from _log_events(run, stop)
        except GeneratorExit:
            raise
        except BaseException:
            _discard_unless_begun(run)
            raise
        _discard_unless_begun(run)


def _discard_unless_begun(run: RunStore) -> None:
    if not run.has_updates:
        run.discard()


def resume(folder: str | Path, *, stop: Stop = never) -> Generator[Event, None, None]:
    """Continue a run from its newest intact checkpoint, else from its start; a finished run yields nothing."""
    with RunStore.open(Path(folder)) as run:
        if not run.finished:
            check_report_packages(run.recipe)
            yield from _log_events(run, stop)
        else:
            yield from finish_log(run)


def finish_log(run: RunStore) -> Iterator[Event]:
    """The last event of a finished run, if its process ended between writing the result and logging the event."""
    past = RunHistory(run)
    if past.last_step and not any(isinstance(event, Finished) for event in past.events):
        yield run.record(_finished_event(run, past))


def _log_events(run: RunStore, stop: Stop) -> Iterator[Event]:
    """The events of a run by itself."""
    for item in log_events(run, stop):
        assert isinstance(item, Event), "alone, a run computes its updates itself"
        yield item


def log_events(run: RunStore, stop: Stop, share: Share | None = None) -> Iterator[Event | PendingUpdate]:
    """The events of the run, each written to the log before it is yielded, and a `Failed` event for an error.

    share  of a base on which several runs train: then its updates are yielded, too, and the caller computes them
    """
    try:
        with event_writer(run.recipe, run.folder) as write_event, other_programs.load_watch() as watch:
            for item in _run_with_settings(run, watch, stop, share):
                if isinstance(item, Event):
                    write_event(run.record(item))
                yield item
    except Exception as error:
        steps = [event["step"] for event in run.history()]
        with contextlib.suppress(CheckpointError, RunError):  # a full disk: the original error is raised all the same
            run.record(Failed(step=max(steps, default=0), error=type(error).__name__, message=str(error)))
        raise


def _run_with_settings(
    store: RunStore, watch: LoadWatch, stop: Stop, share: Share | None
) -> Iterator[Event | PendingUpdate]:
    """The events of a run. Its process settings (threads, determinism) hold while it computes, not between yields."""
    with memory.frozen_imports():
        from bottega.hardware.process import compute_settings, iterate_within
        from bottega.training.setup import resolve_threads

        if store.recipe.adapter is not None:
            store.recipe.adapter.import_library()

    threads = resolve_threads(store.recipe, store.place)
    items = _run(store, watch, stop, share)
    yield from iterate_within(items if share else _computed(items), lambda: compute_settings(threads))


def _computed(items: Iterator[Event | PendingUpdate]) -> Iterator[Event]:
    """The events of a run that computes its updates itself."""
    for item in items:
        if isinstance(item, Event):
            yield item
        else:
            item.compute()


def _run(store: RunStore, watch: LoadWatch, stop: Stop, share: Share | None) -> Iterator[Event | PendingUpdate]:
    """Build or restore the run, report its sizes, train it, and write its result."""
    from bottega.training import provenance
    from bottega.training.validation import Validation

    resumed = store.place is not None
    run = _build(store, watch, share)
    due = Due(run.recipe, run.sampler.steps, run.sampler.passes)
    loop = _Loop(store, run, due, Validation(run), watch, RunHistory(store), alone=share is None)
    checkpoint, damaged = _newest_intact(store)
    yield from damaged
    step, position = _restore(run, checkpoint) if checkpoint else (0, 0)
    yield provenance.started_event(run, step, resumed=resumed)
    yield from _new_notes(run, loop.past, step)
    run.engine.check_stop = lambda: _raise_if_stopped(stop)
    if (yield from loop.train_until_done(step, position)):
        yield from loop.finish()


def _build(store: RunStore, watch: LoadWatch, share: Share | None) -> Run:
    """The run in memory; for a new one, its choices are written to `place.json`."""
    from bottega.training import provenance
    from bottega.training.setup import build

    if store.place is not None:
        return build(store.recipe, store.place, store.folder, share)
    with ThreadPoolExecutor(1) as thread:
        # Checksums of gigabytes of weights take as long as loading them.
        sums = thread.submit(provenance.checksums, store.recipe)
        run = build(store.recipe, None, store.folder, share)
        store.write_place(provenance.place_document(run, sums.result(), watch.cores_of_others))
    return run


def _new_notes(run: Run, past: RunHistory, step: int) -> Iterator[Noted]:
    """Notes before the first update that no earlier start of the run has logged."""
    from bottega.training import provenance

    notes = [*provenance.notes(run, step)]
    if changed := edited_recipe_note(past.store.folder):
        notes.append(Noted(step=step, subject="recipe", message=changed))
    earlier = [(note.subject, note.message, note.details) for note in past.notes]
    yield from (note for note in notes if (note.subject, note.message, note.details) not in earlier)


def _raise_if_stopped(stop: Stop) -> None:
    if stop():
        raise _Stopped


@dataclass
class _Loop:
    """A run in progress: its folder, its state in memory, and its schedule of validations and checkpoints.

    alone     it computes its updates itself
    progress  (step, position of the next example in the stream) of the last update, or of the start
    """

    store: RunStore
    run: Run
    due: Due
    validation: Validation
    watch: LoadWatch
    past: RunHistory
    alone: bool = True
    progress: tuple[int, int] = (0, 0)

    def train_until_done(self, step: int, position: int) -> Generator[Event | PendingUpdate, None, bool]:
        """Train to the end; return whether there is a result to write, which a stopped run has not."""
        self.progress = step, position
        try:
            yield from self._train()
            return True
        except _Stopped:
            step, position = self.progress
            if step > 0 and step not in self.store.saved_steps():
                yield self._save(step, position)
            return False

    def _train(self) -> Iterator[Event | PendingUpdate]:
        """Make update after update; validate and save when due; end early if the recipe's conditions are met."""
        from bottega.training.step import Clock

        if self.past.should_stop:
            return
        step, position = self.progress
        # A run stopped during a validation repeats it now.
        if self.due.validation(step) and (step == 0 or not self.past.was_validated(step)):
            yield self._validate(step)
            if step and self.past.should_stop:
                return
        clock, slowdown = Clock(), SlowdownDetector()
        for update in self.run.sampler.updates(step, position):
            yield from self._update(update, clock, slowdown)
            if self.due.validation(update.step):
                # Logged before any checkpoint of this step: a resume from that checkpoint does not validate again.
                yield self._validate(update.step)
            if self._is_checkpoint(update.step):
                yield self._save(update.step, update.position)
            if self.due.validation(update.step) and self.past.should_stop:
                return
            clock.lap()  # validation and saving do not count in the time of the next update

    def _update(self, update: Update, clock: Any, slowdown: SlowdownDetector) -> Iterator[Event | PendingUpdate]:
        from bottega.training.step import finish_update, prepare_update, sample_examples

        if update.passed and not any(note.subject == PASSED_OVER for note in self.past.notes):
            message = "updates whose examples cannot be compared with each other are passed over for others"
            yield Noted(step=update.step, subject=PASSED_OVER, message=message, details={"examples": update.passed})
        self.run.engine.check_stop()
        examples = sample_examples(self.run, update)
        if examples.answered is not None and self.due.answers(update.step):
            yield examples.answered
        pending = prepare_update(self.run, update, examples)
        yield pending
        stepped: Stepped = finish_update(pending, clock)
        self.progress = update.step, update.position
        yield stepped
        # Beside others its updates take as long as all of theirs.
        if self.alone and (
            slowed := slowdown.note_if_slower(stepped.seconds, stepped.tokens, self.watch.cores_of_others)
        ):
            yield Noted(step=update.step, subject="machine", message=slowed)

    def _is_checkpoint(self, step: int) -> bool:
        """Whether this step gets a checkpoint: it is due, or the best so far. The last step is the result instead."""
        if not 0 < step < self.due.steps:
            return False
        may_be_best = self.due.keeps_best and self.due.validation(step)
        return self.due.checkpoint(step) or (may_be_best and self.past.was_best(step))

    def _validate(self, step: int) -> Validated:
        start = time.perf_counter()
        loss, metrics = self.validation.score(step)
        best = step > 0 and loss < min((value for _, value in self.past.losses), default=math.inf)
        return Validated(step=step, loss=loss, metrics=metrics, best=best, seconds=time.perf_counter() - start)

    def _save(self, step: int, position: int) -> Saved:
        from bottega.training.saving import save_checkpoint

        start = time.perf_counter()
        folder = self.store.checkpoint_folder(step)

        def write(partial: Path) -> None:
            save_checkpoint(self.run, partial, step)
            state = {"step": step, "position": position}
            (partial / STATE).write_text(json.dumps(state), encoding="utf-8")

        commit_folder(folder, write)
        self.store.prune(step, {step, *self._steps_to_keep(step)})
        return Saved(step=step, checkpoint=folder.name, seconds=time.perf_counter() - start)

    def _steps_to_keep(self, step: int) -> list[int]:
        """The steps up to `step` whose checkpoints are kept: the newest that were due, and the best.

        A checkpoint saved because the run was stopped is not among them: a stopped and resumed run must leave the same
        files as an uninterrupted one.
        """
        due = [saved for saved in self.store.saved_steps() if saved <= step and self._is_checkpoint(saved)]
        return [*due[: self.due.kept], *(saved for saved in due if saved == self.past.best)]

    def finish(self) -> Iterator[Event]:
        """Write the result: the last weights, or the best if the recipe has early stopping."""
        from bottega.training.saving import save_result

        last = self.past.last_step
        if self.due.stops_early:
            yield from self._restore_best(last)
        # Clears what an interruption may have left, so that every run that gets here ends with the same files.
        self.store.prune(last, set(self._steps_to_keep(last)))
        finished = _finished_event(self.store, self.past)
        objective = self.run.recipe.objective
        if conclusion := objective.closing_note([event.metrics for event in self.past.updates]):
            yield Noted(step=last, subject="learning", message=conclusion)

        def write(partial: Path) -> None:
            save_result(self.run, partial, last)
            (partial / "README.md").write_text(_card(self.run, finished), encoding="utf-8")

        commit_folder(self.store.folder / finished.result, write)
        yield finished

    def _restore_best(self, last: int) -> Iterator[Noted]:
        """Load the best intact checkpoint; a note on each better one that is damaged."""
        for step, _ in sorted(self.past.losses, key=lambda pair: (pair[1], pair[0])):
            folder = self.store.checkpoint_folder(step)
            # The weights of the last step are the ones in memory.
            damage = "" if step == last else verify_folder(folder)
            if not damage:
                if step != last:
                    _restore(self.run, folder)
                return
            message = f"the best checkpoint, {folder.name}, cannot be used: {damage}; the next best is taken"
            yield Noted(step=last, subject="checkpoint", message=message)


def _card(run: Run, finished: Finished) -> str:
    from bottega.training.model_card import model_card

    return model_card(
        run.recipe,
        library=run.engine.scorer.library,
        examples=len(run.sampler.examples),
        updates=finished.weights_from,
        losses={"training loss": finished.loss, "validation loss": finished.validation_loss},
    )


def _finished_event(store: RunStore, past: RunHistory) -> Finished:
    """The final event, from the history of the run."""
    place = store.place or {}
    updates, losses = past.updates, dict(past.losses)
    last = updates[-1].step if updates else 0
    early = store.recipe.evaluate is not None and store.recipe.evaluate.stop_after is not None
    chosen = (past.best if early else None) or last
    done = last == place["choices"]["steps"]
    return Finished(
        step=last,
        result="adapter" if store.recipe.adapter else "model",
        weights_from=chosen,
        reason="all steps done" if done else past.forgetting or "validation stopped getting better",
        loss=updates[-1].loss if updates else None,
        validation_loss=losses.get(chosen),
    )


def _newest_intact(store: RunStore) -> tuple[Path | None, list[Noted]]:
    """The newest intact checkpoint, and a note on each newer one that is damaged."""
    damaged: list[Noted] = []
    for checkpoint in store.checkpoints():
        damage = verify_folder(checkpoint)
        if not damage:
            return checkpoint, damaged
        message = (
            f"{checkpoint.name} is passed over: {damage}; the run continues from the one before, or from its start"
        )
        damaged.append(Noted(step=0, subject="checkpoint", message=message))
    return None, damaged


def _restore(run: Run, checkpoint: Path) -> tuple[int, int]:
    """Load a checkpoint; return its step and the position of the next example in the stream."""
    from bottega.training.saving import load_checkpoint

    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    load_checkpoint(run, checkpoint, state["step"])
    return state["step"], state["position"]
