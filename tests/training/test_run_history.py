"""Losses, best step and stopping conditions, read from the events of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bottega.events import Noted, Started, Stepped, Validated, parse
from bottega.recipe.schema import Recipe
from bottega.runs.store import RunStore
from bottega.training import run_history
from bottega.training.run_history import GENERAL, RunHistory


@pytest.fixture
def history(recipe: Callable[..., Recipe], tmp_path: Path) -> Iterator[Callable[..., RunHistory]]:
    """A history with these validation losses by step, for a recipe with sections replaced."""
    stores: list[RunStore] = []

    def make(losses: dict[int, float], general: tuple[float, ...] = (), **sections: Any) -> RunHistory:
        store = RunStore.create(recipe(**sections), "", tmp_path / f"run-{len(stores)}")
        stores.append(store)
        best = float("inf")
        for index, (step, loss) in enumerate(losses.items()):
            if step:
                store.record(parse({"type": "stepped", "step": step, "loss": 1.0}))
            metrics = {GENERAL: general[index]} if general else {}
            store.record(Validated(step=step, loss=loss, metrics=metrics, best=loss < best, seconds=0.1))
            best = min(best, loss)
        return RunHistory(store)

    yield make
    for store in stores:
        store.close()


def test_the_best_step_is_the_earliest_of_the_lowest_losses_after_an_update(history: Callable[..., RunHistory]) -> None:
    made = history({0: 0.1, 1: 3.0, 2: 2.0, 3: 2.0, 4: 2.5})
    assert made.losses == [(1, 3.0), (2, 2.0), (3, 2.0), (4, 2.5)]
    assert (made.best, made.last_step) == (2, 4)
    assert made.was_validated(3)
    assert not made.was_validated(5)
    assert made.was_best(0)
    assert not made.was_best(4)
    assert (history({}).best, history({}).last_step) == (None, 0)


def test_events_have_their_types(history: Callable[..., RunHistory]) -> None:
    made = history({1: 2.0})
    made.store.record(Noted(step=1, subject="rows", message="some were dropped"))
    assert [type(event) for event in made.events] == [Validated, Noted], "updates are not kept in memory"
    assert [type(event) for event in made.updates] == [Stepped]
    assert (len(made.validations), made.notes[0].subject) == (1, "rows")


@pytest.mark.parametrize(
    ("losses", "stops"),
    [({1: 2.0, 2: 3.0}, False), ({1: 2.0, 2: 3.0, 3: 4.0}, True), ({1: 2.0, 2: 3.0, 3: 1.0}, False), ({0: 1.0}, False)],
)
def test_a_run_stops_after_so_many_validations_without_improvement(
    losses: dict[int, float], stops: bool, history: Callable[..., RunHistory]
) -> None:
    assert history(losses, evaluate={"stop_after": 2}).should_stop is stops
    assert not history(losses).should_stop


def test_a_run_stops_when_it_forgets(history: Callable[..., RunHistory], tmp_path: Path) -> None:
    guard = {"replay": str(tmp_path / "rows.jsonl"), "stop_when": 0.5}
    losses = {0: 3.0, 1: 2.0, 2: 1.0}
    kept = history(losses, (1.0, 1.9, 1.4), guard=guard, evaluate={})
    assert (kept.forgetting, kept.should_stop) == ("", False)
    lost = history(losses, (1.0, 1.0, 1.75), guard=guard, evaluate={})
    assert lost.forgetting == "the loss on replay rows has risen by 0.750, and guard.stop_when is 0.5"
    assert lost.should_stop
    assert not history({0: 3.0}, (9.0,), guard=guard, evaluate={}).forgetting, "one validation shows no rise"


def validated(step: int, loss: float) -> Validated:
    return Validated(step=step, loss=loss, metrics={}, best=False, seconds=0.1)


def resumed(step: int) -> Started:
    counts = {"steps": 9, "examples": 4, "validation_examples": 1, "parameters": 8, "trained_parameters": 8}
    return Started(
        step=step, resumed=True, dtype="float32", device="cpu", threads=1, micro_batch_tokens=64, lr=0.1, **counts
    )


def test_a_log_that_grows_is_parsed_once(history: Callable[..., RunHistory], monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def counted(document: dict[str, Any]) -> Any:
        parsed.append(document["type"])
        return parse(document)

    monkeypatch.setattr(run_history, "parse", counted)
    grown = history({1: 3.0, 2: 2.0})
    assert grown.best == 2
    grown.store.record(validated(3, 1.0))
    assert (grown.best, len(grown.validations)) == (3, 3)
    assert (len(parsed), len(grown.events)) == (5, 3)


def test_a_resume_drops_what_it_repeats(history: Callable[..., RunHistory]) -> None:
    grown = history({2: 2.0, 4: 1.0})
    assert grown.best == 4
    grown.store.record(resumed(2))
    grown.store.record(validated(4, 5.0))
    for seen in (grown, RunHistory(grown.store)):
        assert seen.losses == [(2, 2.0), (4, 5.0)]
        history_without_updates = [event for event in grown.store.history() if event["type"] != "stepped"]
        assert [event.document() for event in seen.events] == history_without_updates
        assert [update.step for update in seen.updates] == [2]


def test_an_event_after_a_torn_line_is_read(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_text('{"type": "validated", "st', encoding="utf-8")
    store = RunStore(tmp_path)
    torn = RunHistory(store)
    assert torn.events == []
    store.record(validated(4, 1.0))
    store.close()
    assert torn.losses == [(4, 1.0)]
