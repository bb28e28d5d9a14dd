"""The loop every run goes through, as a generator of events.

Closing the generator stops it where it is. A run that is asked to stop (`stop`) saves what it takes to go on first.
torch is imported only once the run folder stands, so that a run killed at any moment after that can be resumed.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.errors import CheckpointError, RunError
from bottega.events import Event, Failed, Finished, Noted, Saved, Stepped, Validated
from bottega.hardware import memory, other_programs
from bottega.hardware.other_programs import LoadWatch, SlowdownDetector
from bottega.objectives import SKIPPED_METRIC
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import commit_folder, verify_folder
from bottega.runs.store import RunStore, edited_recipe_note, recipe_yaml
from bottega.runs.tensorboard import check_report_packages, event_writer
from bottega.training.due import Due
from bottega.training.run_history import RunHistory

if TYPE_CHECKING:
    from bottega.data.sampler import Update
    from bottega.training.setup import Run
    from bottega.training.validation import Validation

STATE = "state.json"

Stop = Callable[[], bool]
"""Whether the run is to stop; asked between micro-batches."""


class _Stopped(Exception):
    """The run was asked to stop, and has made no update since the one before."""


def never() -> bool:
    return False


def train(
    recipe: Recipe, out: str | Path | None = None, *, written: str | None = None, stop: Stop = never
) -> Generator[Event, None, None]:
    """Run a recipe in a new folder (`out`, or `runs/<name>-<n>`), yielding its events as they happen.

    A run that ends before its first update, by an error or because it was asked to, leaves no folder.

    written  the recipe's own text, kept as `recipe.yaml`
    stop     asked between micro-batches: where it says so, a checkpoint of the last update is saved, and it ends
    """
    check_report_packages(recipe)
    with RunStore.create(recipe, written or recipe_yaml(recipe), Path(out) if out else None) as run:
        try:
            yield from _recorded(run, stop)
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
    """Continue a run from its newest whole checkpoint, or from its start; nothing happens to a finished one."""
    with RunStore.open(Path(folder)) as run:
        if not run.finished:
            check_report_packages(run.recipe)
            yield from _recorded(run, stop)
        elif RunHistory(run).last_step and not any(event["type"] == "finished" for event in run.history()):
            # Ended between the result and the line that tells of it.
            yield run.record(_finished(run))


def _recorded(run: RunStore, stop: Stop) -> Iterator[Event]:
    """The run's events, each written down before it is yielded; so is what ended it early."""
    try:
        with event_writer(run.recipe, run.folder) as tell, other_programs.load_watch() as watch:
            for event in _life(run, watch, stop):
                tell(run.record(event))
                yield event
    except Exception as error:
        steps = [event["step"] for event in run.history()]
        with contextlib.suppress(CheckpointError, RunError):  # on a full disk the error itself must do
            run.record(Failed(step=max(steps, default=0), error=type(error).__name__, message=str(error)))
        raise


def _life(store: RunStore, watch: LoadWatch, stop: Stop) -> Iterator[Event]:
    """The events of a run, each computed under the run's own settings of the process, which end at every yield."""
    with memory.frozen_imports():
        from bottega.hardware.process import compute_settings, iterate_within
        from bottega.training.setup import chosen_threads

    threads = chosen_threads(store.recipe, store.place)
    yield from iterate_within(_computed(store, watch, stop), lambda: compute_settings(threads))


def _computed(store: RunStore, watch: LoadWatch, stop: Stop) -> Iterator[Event]:
    """Build or restore the run, say what it is, train it, write its result."""
    from bottega.training import provenance
    from bottega.training.validation import Validation

    resumed = store.place is not None
    run = _built(store, watch)
    loop = _Loop(store, run, Due(run.recipe, run.sampler.steps, run.sampler.passes), Validation(run), watch)
    checkpoint, damaged = _newest_whole(store)
    yield from damaged
    step, position = _restore(run, checkpoint) if checkpoint else (0, 0)
    yield provenance.started(run, step, resumed=resumed)
    yield from _new_notes(store, run, step)
    run.engine.check_stop = lambda: _pause(stop)
    if (yield from loop.train_until_done(step, position)):
        yield from loop.finish()


def _built(store: RunStore, watch: LoadWatch) -> Run:
    """The run in memory; where it begins, what was chosen for it is written to `place.json`."""
    from bottega.training import provenance
    from bottega.training.setup import build

    if store.place is not None:
        return build(store.recipe, store.place, store.folder)
    with ThreadPoolExecutor(1) as thread:
        # Checksums of gigabytes of weights take as long as loading them.
        sums = thread.submit(provenance.checksums, store.recipe)
        run = build(store.recipe, None, store.folder)
        store.write_place(provenance.place(run, sums.result(), watch.cores_of_others))
    return run


def _new_notes(store: RunStore, run: Run, step: int) -> Iterator[Noted]:
    """What a user should know before the first update, and was not told by an earlier start."""
    from bottega.training import provenance

    notes = [*provenance.notes(run, step)]
    if changed := edited_recipe_note(store.folder):
        notes.append(Noted(step=step, subject="recipe", message=changed))
    earlier = [event for event in store.history() if event["type"] == "noted"]
    yield from (note for note in notes if not any(_same(note, event) for event in earlier))


def _same(note: Noted, event: Mapping[str, Any]) -> bool:
    """Whether a stored event says what a note says."""
    return (note.subject, note.message, note.details) == (event["subject"], event["message"], event["details"])


def _pause(stop: Stop) -> None:
    if stop():
        raise _Stopped


@dataclass
class _Loop:
    """A run going on: its folder, what it is in memory, and when it does what.

    done  (step, position of the next example) of the start and of each update made
    """

    store: RunStore
    run: Run
    due: Due
    validation: Validation
    watch: LoadWatch
    done: list[tuple[int, int]] = field(default_factory=list)

    @property
    def past(self) -> RunHistory:
        return RunHistory(self.store)

    def train_until_done(self, step: int, position: int) -> Generator[Event, None, bool]:
        """Update after update; whether there is a result to write: not where the run was asked to stop."""
        self.done = [(step, position)]
        try:
            yield from self._train()
            return True
        except _Stopped:
            step, position = self.done[-1]
            if step > 0 and step not in self.store.saved_steps():
                yield self._save(step, position)
            return False

    def _train(self) -> Iterator[Event]:
        """Update after update; validate and save when due; stop early where the recipe says so."""
        from bottega.training.step import Clock

        if self.past.should_stop:
            return
        step, position = self.done[-1]
        # A run that was asked to stop while it validated does so now.
        if self.due.validation(step) and (step == 0 or not self.past.was_validated(step)):
            yield self._validate(step)
            if step and self.past.should_stop:
                return
        clock, slowdown = Clock(), SlowdownDetector()
        for update in self.run.sampler.updates(step, position):
            yield from self._update(update, clock, slowdown)
            if self.due.validation(update.step):
                # Written down before any checkpoint of this step, so that a resume finds it.
                yield self._validate(update.step)
            if self._is_checkpoint(update.step):
                yield self._save(update.step, update.position)
            if self.due.validation(update.step) and self.past.should_stop:
                return
            clock.lap()  # validating and saving after an update is no part of the next one's time

    def _update(self, update: Update, clock: Any, slowdown: SlowdownDetector) -> Iterator[Event]:
        from bottega.training.step import draw, train_step

        if update.passed and not any(SKIPPED_METRIC in event.get("metrics", {}) for event in self.store.history()):
            what = "examples that have nothing to tell apart were drawn together: they are passed over for others"
            yield Noted(step=update.step, subject="passed over", message=what, details={"examples": update.passed})
        self.run.engine.check_stop()
        drawn = draw(self.run, update)
        if drawn.answered is not None and self.due.answers(update.step):
            yield drawn.answered
        stepped: Stepped = train_step(self.run, update, drawn, clock)
        self.done.append((update.step, update.position))
        yield stepped
        if slowed := slowdown.update(stepped.seconds, stepped.tokens, self.watch.cores_of_others):
            yield Noted(step=update.step, subject="machine", message=slowed)

    def _is_checkpoint(self, step: int) -> bool:
        """Whether the recipe asks for a checkpoint of this step, or it is the best so far; the last is the result."""
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
        self.store.prune(step, {step, *self._worth_keeping(step)})
        return Saved(step=step, checkpoint=folder.name, seconds=time.perf_counter() - start)

    def _worth_keeping(self, step: int) -> list[int]:
        """The steps up to `step` whose checkpoints stay: the newest that were due, and the best.

        One that was saved because the run was asked to stop is not among them, so that stopping changes nothing.
        """
        due = [saved for saved in self.store.saved_steps() if saved <= step and self._is_checkpoint(saved)]
        return [*due[: self.due.kept], *(saved for saved in due if saved == self.past.best)]

    def finish(self) -> Iterator[Event]:
        """Write the result: the last weights, or the best where the run could stop early."""
        from bottega.training.saving import save_result

        last = self.past.last_step
        if self.due.stops_early:
            yield from self._restore_best(last)
        # Whatever an interruption left is cleared first, so that every way to this point ends in the same files.
        self.store.prune(last, set(self._worth_keeping(last)))
        finished, history = _finished(self.store), self.store.history()
        objective = self.run.recipe.objective
        if conclusion := objective.closing_note([event["metrics"] for event in history if event["type"] == "stepped"]):
            yield Noted(step=last, subject="learning", message=conclusion)

        def write(partial: Path) -> None:
            save_result(self.run, partial, last)
            (partial / "README.md").write_text(_card(self.run, finished), encoding="utf-8")

        commit_folder(self.store.folder / finished.result, write)
        yield finished

    def _restore_best(self, last: int) -> Iterator[Noted]:
        """Load the best weights that can be read; a note on each better checkpoint that cannot."""
        for step, _ in sorted(self.past.losses, key=lambda pair: (pair[1], pair[0])):
            folder = self.store.checkpoint_folder(step)
            wrong = "" if step == last else verify_folder(folder)
            if not wrong:
                if step != last:
                    _restore(self.run, folder)
                return
            message = f"the best checkpoint, {folder.name}, cannot be used: {wrong}; the next best is taken"
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


def _finished(store: RunStore) -> Finished:
    """What the run came to, read from its history."""
    past, place = RunHistory(store), store.place or {}
    last, losses = past.last_step, dict(past.losses)
    early = store.recipe.evaluate is not None and store.recipe.evaluate.stop_after is not None
    chosen = (past.best if early else None) or last
    done = last == place["choices"]["steps"]
    return Finished(
        step=last,
        result="adapter" if store.recipe.adapter else "model",
        weights_from=chosen,
        reason="all steps done" if done else past.forgetting or "validation stopped getting better",
        loss=next((event["loss"] for event in reversed(store.history()) if event["type"] == "stepped"), None),
        validation_loss=losses.get(chosen),
    )


def _newest_whole(store: RunStore) -> tuple[Path | None, list[Noted]]:
    """The newest checkpoint whose files are all sound, and a note on each newer one that is not."""
    damaged: list[Noted] = []
    for checkpoint in store.checkpoints():
        wrong = verify_folder(checkpoint)
        if not wrong:
            return checkpoint, damaged
        message = f"{checkpoint.name} is passed over: {wrong}; the run goes on from the one before, or from its start"
        damaged.append(Noted(step=0, subject="checkpoint", message=message))
    return None, damaged


def _restore(run: Run, checkpoint: Path) -> tuple[int, int]:
    """Load a checkpoint; its step, and the position of the next example in the stream."""
    from bottega.training.saving import load_checkpoint

    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    load_checkpoint(run, checkpoint, state["step"])
    return state["step"], state["position"]
