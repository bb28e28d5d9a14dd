"""A run that is stopped loses nothing, and is continued as if it had not been."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.runs import atomic_files
from bottega.runs.atomic_files import checksum, commit_folder
from bottega.runs.store import history
from bottega.training import loop
from making import WORDS, make_document, write_jsonl

NEVER_DUE = 1000


@pytest.fixture
def document(llama: Path, tmp_path: Path) -> dict[str, Any]:
    return make_document(llama, tmp_path)


def sums(run: Path) -> dict[str, str]:
    """Checksums of the weights and states that a run leaves."""
    files = [path for path in run.rglob("*") if path.suffix == ".safetensors" or path.name == "state.json"]
    return {str(path.relative_to(run)): checksum(path) for path in sorted(files)}


def after(polls: int) -> Callable[[], bool]:
    """A stop condition that is first true at the given poll."""
    count = itertools.count(1)
    return lambda: next(count) >= polls


WAYS = {
    "full": {},
    "lora that keeps the best": {"adapter": {"rank": 2}, "evaluate": {"every": 2, "stop_after": 9}},
    "nothing is saved": {"save": None, "evaluate": {"every": 5}},
    "dpo": {"objective": {"kind": "dpo"}, "adapter": {"rank": 2, "dropout": 0.1}},
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.slow if way in ("full", "dpo") else []) for way in WAYS]
)
def test_a_run_stopped_and_resumed_many_times_ends_like_an_uninterrupted_one(
    way: str, document: dict, tmp_path: Path
) -> None:
    if way == "dpo":
        rows = [{"prompt": f"{a} {b}", "chosen": f" {a}", "rejected": f" {b}"} for a, b in itertools.pairwise(WORDS)]
        document["data"]["train"] = str(write_jsonl(tmp_path / "pairs.jsonl", rows))
    recipe = bottega.Recipe.parse({**document, **WAYS[way]})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    list(bottega.train(recipe, whole))
    draw, stops = random.Random(way), 0
    events = list(bottega.train(recipe, cut, stop=after(14)))
    while events[-1].type != "finished":
        stops += 1
        events = list(bottega.resume(cut, stop=after(draw.randint(4, 30))))
    assert stops >= 2
    assert sums(cut) == sums(whole)
    logged = [
        [(event["type"], event["step"], event["loss"]) for event in history(run) if event["type"] == kind]
        for run in (whole, cut)
        for kind in ("stepped", "validated")
    ]
    assert logged[0] == logged[2]
    assert [event for event in logged[3] if event[1]] == [event for event in logged[1] if event[1]]


def test_a_run_can_be_stopped_between_two_micro_batches(document: dict, tmp_path: Path) -> None:
    recipe = bottega.Recipe.parse({**document, "evaluate": {"every": NEVER_DUE}, "save": None})
    polls: list[int] = []
    steps = (event.step for event in bottega.train(recipe, tmp_path / "whole") if event.type == "stepped")
    assert list(steps) == list(range(1, 11))

    def stop() -> bool:
        polls.append(1)
        return False

    events = bottega.train(recipe, tmp_path / "run", stop=stop)
    between = []
    for event in events:
        if event.type == "stepped":
            between.append(len(polls))
            polls.clear()
    assert min(between[1:]) > 2, "an update polls more than once"


@pytest.mark.parametrize("polls", [1, 3])
def test_a_run_stopped_before_its_first_update_leaves_no_folder(polls: int, document: dict, tmp_path: Path) -> None:
    recipe = bottega.Recipe.parse(document)
    events = list(bottega.train(recipe, tmp_path / "runs" / "one", stop=after(polls)))
    assert "stepped" not in {event.type for event in events}
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_before_its_first_update_leaves_no_folder(
    document: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document["data"]["validation"] = str(tmp_path / "nowhere.jsonl")
    with pytest.raises(bottega.BottegaError):
        list(bottega.train(bottega.Recipe.parse(document)))
    assert not (tmp_path / "runs").exists()
    (tmp_path / "given").mkdir()
    with pytest.raises(bottega.BottegaError):
        list(bottega.train(bottega.Recipe.parse(document), tmp_path / "given"))
    assert list((tmp_path / "given").iterdir()) == []


def test_closing_the_generator_of_events_keeps_the_checkpoints(document: dict, tmp_path: Path) -> None:
    for event in bottega.train(bottega.Recipe.parse(document), tmp_path / "run"):
        if event.step == 5:
            break
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {"step-00000003", "step-00000004"}, "the best, and what was due"
    started = next(event for event in bottega.resume(tmp_path / "run") if event.type == "started")
    assert started.step == 4


@pytest.mark.parametrize("name", ["step-00000004", pytest.param("model", marks=pytest.mark.slow)])
def test_a_process_that_ends_while_writing_loses_nothing(
    name: str, document: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a second Ctrl-C does in the middle of a checkpoint or the result: partial files have another name."""

    def write_half(folder: Path, write: Callable[[Path], None]) -> None:
        def cut(partial: Path) -> None:
            write(partial)
            if folder.name == name:
                (partial / "model.safetensors").write_bytes(b"half")
                # A process that is ended cleans nothing up.
                monkeypatch.setattr(atomic_files.shutil, "rmtree", lambda *_, **__: None)
                raise KeyboardInterrupt

        commit_folder(folder, cut)

    recipe = bottega.Recipe.parse({**document, "save": {"every": 4, "keep": 1}})
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    monkeypatch.setattr(loop, "commit_folder", write_half)
    with pytest.raises(KeyboardInterrupt):
        list(bottega.train(recipe, cut))
    assert [path.name for path in cut.rglob(".*.partial")] == [f".{name}.partial"]
    monkeypatch.undo()
    assert [event.type for event in bottega.resume(cut)][-1] == "finished"
    list(bottega.train(recipe, whole))
    assert sums(cut) == sums(whole)
    assert not list(cut.rglob("*.partial"))


def test_notes_of_a_stopped_run_are_not_repeated(document: dict, tmp_path: Path) -> None:
    list(bottega.train(bottega.Recipe.parse(document), tmp_path / "run", stop=after(30)))
    assert any(event.type == "finished" for event in bottega.resume(tmp_path / "run"))
    notes = [event["message"] for event in history(tmp_path / "run") if event["type"] == "noted"]
    assert len(notes) == len(set(notes)) > 0
