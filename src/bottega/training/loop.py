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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.batch import Means, counted
from bottega.errors import CheckpointError, RunError
from bottega.events import Event, Failed, Finished, Noted, Saved, Stepped, Validated
from bottega.hardware import memory, other_programs
from bottega.hardware.other_programs import Pace, Watch
from bottega.objectives import PASSED
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import commit_folder, verify_folder
from bottega.runs.store import RunStore, edited_note, recipe_yaml
from bottega.runs.tensorboard import check_report_packages, event_writers

if TYPE_CHECKING:
    from bottega.data.sampler import Update
    from bottega.training.rollout import Drawn
    from bottega.training.session import Session

STATE = "state.json"

GENERAL = "general_loss"
"""The metric of a validation by which a guard sees what is forgotten."""


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
        elif _last_step(run) and not any(event["type"] == "finished" for event in run.history()):
            # Ended between the result and the line that tells of it.
            yield run.record(_finished(run))


def _recorded(run: RunStore, stop: Stop) -> Iterator[Event]:
    """The run's events, each written down before it is yielded; so is what ended it early."""
    try:
        with event_writers(run.recipe, run.folder) as tell, other_programs.watched() as watch:
            for event in _life(run, watch, stop):
                tell(run.record(event))
                yield event
    except Exception as error:
        steps = [event["step"] for event in run.history()]
        with contextlib.suppress(CheckpointError, RunError):  # on a full disk the error itself must do
            run.record(Failed(step=max(steps, default=0), error=type(error).__name__, message=str(error)))
        raise


def _life(run: RunStore, watch: Watch, stop: Stop) -> Iterator[Event]:
    with memory.uncollected():
        from bottega.training import provenance
        from bottega.training.session import Session

    recipe, place = run.recipe, run.place
    if place is None:
        with ThreadPoolExecutor(1) as thread:
            sums = thread.submit(provenance.checksums, recipe)
            session = Session(recipe, None, run.folder)
            run.write_place(provenance.place(session, sums.result(), watch.others))
    else:
        session = Session(recipe, place, run.folder)
    checkpoint, damaged = _newest_whole(run)
    yield from damaged
    step, position = _restore(session, checkpoint) if checkpoint else (0, 0)
    yield provenance.started(session, step, resumed=place is not None)
    notes = [*provenance.notes(session, step)]
    if changed := edited_note(run.folder):
        notes.append(Noted(step=step, subject="recipe", message=changed))
    told = [event for event in run.history() if event["type"] == "noted"]
    yield from (note for note in notes if not any(_same(note, event) for event in told))
    session.engine.pause = lambda: _pause(stop)
    if (yield from _updates(run, session, watch, step, position)):
        yield from _finish(run, session)


def _same(note: Noted, event: Mapping[str, Any]) -> bool:
    """Whether an event, as it was written down, says what a note says."""
    return (note.subject, note.message, note.details) == (event["subject"], event["message"], event["details"])


def _pause(stop: Stop) -> None:
    if stop():
        raise _Stopped


def _updates(run: RunStore, session: Session, watch: Watch, step: int, position: int) -> Generator[Event, None, bool]:
    """Step after step; returns whether there is a result to write: not where the run was asked to stop."""
    done = [(step, position)]
    try:
        yield from _stepped(run, session, watch, done)
        return True
    except _Stopped:
        step, position = done[-1]
        if step > 0 and step not in run.saved_steps():
            yield _save(run, session, step, position)
        return False


def _stepped(run: RunStore, session: Session, watch: Watch, done: list[tuple[int, int]]) -> Iterator[Event]:
    """Step after step; validate and save when due; stop early where the recipe says so.

    done  the last step, and the position of the next example: added to as updates are made
    """
    if _should_stop(run):
        return
    step, position = done[-1]
    # A run that was asked to stop while it validated does so now.
    if session.due_validation(step) and (step == 0 or not _was_validated(run, step)):
        yield _validate(run, session, step)
        if step and _should_stop(run):
            return
    clock, pace = Clock(), Pace()
    for update in session.feed.updates(step, position):
        if update.passed and not any(PASSED in event.get("metrics", {}) for event in run.history()):
            what = "examples that have nothing to tell apart were drawn together: they are passed over for others"
            yield Noted(step=update.step, subject="passed over", message=what, details={"examples": update.passed})
        session.engine.pause()
        drawn = session.drawn(update)
        if drawn.answered is not None and session.due_answers(update.step):
            yield drawn.answered
        stepped = _step(session, update, drawn, clock)
        done.append((update.step, update.position))
        yield stepped
        if slowed := pace.slowed(stepped.seconds, stepped.tokens, watch.others):
            yield Noted(step=update.step, subject="machine", message=slowed)
        if session.due_validation(update.step):
            # Written down before any checkpoint of this step, so that a resume finds it.
            yield _validate(run, session, update.step)
        if _is_due(run, session, update.step):
            yield _save(run, session, update.step, update.position)
        if session.due_validation(update.step) and _should_stop(run):
            return
        clock.lap()  # an update's time is its own: what was validated and saved after it says so itself


def _is_due(run: RunStore, session: Session, step: int) -> bool:
    """Whether the recipe asks for a checkpoint of this step, or it is the best so far; the last becomes the result."""
    if not 0 < step < session.feed.steps:
        return False
    may_be_best = session.wants_best and session.due_validation(step)
    return session.due_save(step) or (may_be_best and _was_best(run, step))


class Clock:
    """Wall and processor time since it was last asked."""

    def __init__(self) -> None:
        self.wall, self.busy = time.perf_counter(), time.process_time()

    def lap(self) -> tuple[float, float]:
        """(wall seconds, processor seconds a second) since the lap before."""
        wall, busy = time.perf_counter(), time.process_time()
        seconds, worked = wall - self.wall, busy - self.busy
        self.wall, self.busy = wall, busy
        return seconds, worked / max(seconds, 1e-9)


def _step(session: Session, update: Update, drawn: Drawn, clock: Clock) -> Stepped:
    """Pack, count, accumulate each micro-batch, move: one update."""
    from bottega.hardware import memory

    engine, lr = session.engine, session.schedule.lr(update.step)
    batches = session.batches(drawn.examples)
    counts = counted(batches)
    total, metrics = 0.0, Means()
    informed = session.informed(batches, drawn.examples)
    for part in engine.accumulate(informed, counts, step=update.step, noise=drawn.noise):
        total += part.share
        metrics.add(part.metrics, part.batch)
    held, general = session.hold(update.step)
    norm = engine.update(lr, step=update.step)
    passed = {PASSED: float(update.passed)} if update.passed else {}
    seconds, cpu = clock.lap()
    return Stepped(
        step=update.step,
        loss=total,
        lr=lr,
        grad_norm=norm,
        tokens=sum(batch.computed for batch in (*batches, *general)),
        tokens_real=sum(batch.tokens_real for batch in (*batches, *general)),
        seconds=seconds,
        cpu=cpu,
        memory=memory.peak(),
        device_memory=session.device_memory,
        device_use=session.device_use,
        epoch=update.position / session.feed.epoch_examples,
        metrics={**drawn.metrics, **metrics.values(), **held.values(), **passed},
    )


def _validate(run: RunStore, session: Session, step: int) -> Validated:
    start = time.perf_counter()
    loss, metrics = session.validate(step)
    if session.guarded is not None:
        metrics = {**metrics, GENERAL: session.general_loss()}
    best = step > 0 and loss < min((value for _, value in _losses(run)), default=math.inf)
    return Validated(step=step, loss=loss, metrics=metrics, best=best, seconds=time.perf_counter() - start)


def _save(run: RunStore, session: Session, step: int, position: int) -> Saved:
    start = time.perf_counter()
    folder = run.checkpoint_folder(step)

    def write(partial: Path) -> None:
        session.save(partial, step)
        state = {"step": step, "position": position}
        (partial / STATE).write_text(json.dumps(state), encoding="utf-8")

    commit_folder(folder, write)
    run.prune(step, {step, *_worth_keeping(run, session, step)})
    return Saved(step=step, checkpoint=folder.name, seconds=time.perf_counter() - start)


def _worth_keeping(run: RunStore, session: Session, step: int) -> list[int]:
    """The steps up to `step` whose checkpoints stay: the newest that were due, and the best.

    One that was saved because the run was asked to stop is not among them, so that stopping changes nothing.
    """
    due = [saved for saved in run.saved_steps() if saved <= step and _is_due(run, session, saved)]
    return [*due[: session.keep], *(saved for saved in due if saved == _best(run))]


def _finish(run: RunStore, session: Session) -> Iterator[Event]:
    """Write the result: the last weights, or the best where the run could stop early."""
    last = _last_step(run)
    if session.stops_early:
        yield from _restore_best(run, session, last)
    # Whatever an interruption left is cleared first, so that every way to this point ends in the same files.
    run.prune(last, set(_worth_keeping(run, session, last)))
    name = "adapter" if session.recipe.adapter else "model"
    finished = _finished(run)
    concluding = session.recipe.objective.concluding([e["metrics"] for e in run.history() if e["type"] == "stepped"])
    if concluding:
        yield Noted(step=last, subject="learning", message=concluding)

    def write(partial: Path) -> None:
        session.save_result(partial, last)
        (partial / "README.md").write_text(_card(session, finished), encoding="utf-8")

    commit_folder(run.folder / name, write)
    yield finished


def _card(session: Session, finished: Finished) -> str:
    from bottega.training.model_card import model_card

    return model_card(
        session.recipe,
        library="peft" if session.recipe.adapter else "transformers",
        examples=len(session.feed.examples),
        updates=finished.weights_from,
        losses={"training loss": finished.loss, "validation loss": finished.validation_loss},
    )


def _restore_best(run: RunStore, session: Session, last: int) -> Iterator[Noted]:
    """Load the best weights that can be read; a note on each better checkpoint that cannot."""
    for step, _ in sorted(_losses(run), key=lambda pair: (pair[1], pair[0])):
        wrong = "" if step == last else verify_folder(run.checkpoint_folder(step))
        if not wrong:
            if step != last:
                _restore(session, run.checkpoint_folder(step))
            return
        message = (
            f"the best checkpoint, {run.checkpoint_folder(step).name}, cannot be used: {wrong}; the next best is taken"
        )
        yield Noted(step=last, subject="checkpoint", message=message)


def _finished(run: RunStore) -> Finished:
    """What the run came to, read from its history."""
    history, place = run.history(), run.place or {}
    last, losses = _last_step(run), dict(_losses(run))
    early = run.recipe.evaluate is not None and run.recipe.evaluate.stop_after is not None
    chosen = (_best(run) if early else None) or last
    done = last == place["choices"]["steps"]
    return Finished(
        step=last,
        result="adapter" if run.recipe.adapter else "model",
        weights_from=chosen,
        reason="all steps done" if done else _forgets(run) or "validation stopped getting better",
        loss=next((event["loss"] for event in reversed(history) if event["type"] == "stepped"), None),
        validation_loss=losses.get(chosen),
    )


def _last_step(run: RunStore) -> int:
    return max((event["step"] for event in run.history() if event["type"] == "stepped"), default=0)


def _newest_whole(run: RunStore) -> tuple[Path | None, list[Noted]]:
    """The newest checkpoint whose files are all sound, and a note on each newer one that is not."""
    damaged: list[Noted] = []
    for checkpoint in run.checkpoints():
        wrong = verify_folder(checkpoint)
        if not wrong:
            return checkpoint, damaged
        message = f"{checkpoint.name} is passed over: {wrong}; the run goes on from the one before, or from its start"
        damaged.append(Noted(step=0, subject="checkpoint", message=message))
    return None, damaged


def _restore(session: Session, checkpoint: Path) -> tuple[int, int]:
    """Load a checkpoint; returns its step, and the position of the next example in the stream."""
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    session.load(checkpoint, state["step"])
    return state["step"], state["position"]


def _validations(run: RunStore) -> list[dict[str, Any]]:
    return [event for event in run.history() if event["type"] == "validated"]


def _was_validated(run: RunStore, step: int) -> bool:
    return any(event["step"] == step for event in _validations(run))


def _was_best(run: RunStore, step: int) -> bool:
    return any(event["best"] for event in _validations(run) if event["step"] == step)


def _losses(run: RunStore) -> list[tuple[int, float]]:
    """(step, validation loss) after each update that was validated; the start is no candidate for the best."""
    return [(event["step"], event["loss"]) for event in _validations(run) if event["step"] > 0]


def _best(run: RunStore) -> int | None:
    """The step with the lowest validation loss, the earliest of equals."""
    return min(_losses(run), key=lambda pair: (pair[1], pair[0]), default=(None, 0.0))[0]


def _forgets(run: RunStore) -> str:
    """Why a run ends that forgets more than it may; empty for any other."""
    most = None if run.recipe.guard is None else run.recipe.guard.stop_when
    found = [event["metrics"][GENERAL] for event in _validations(run)] if most else []
    if most is None or len(found) < 2 or found[-1] - found[0] < most:
        return ""
    return f"the loss on general rows has risen by {found[-1] - found[0]:.3f}, and guard.stop_when is {most:g}"


def _should_stop(run: RunStore) -> bool:
    if _forgets(run):
        return True
    evaluate = run.recipe.evaluate
    if evaluate is None or evaluate.stop_after is None:
        return False
    best = _best(run)
    return best is not None and sum(step > best for step, _ in _losses(run)) >= evaluate.stop_after
