"""A run from the first update to the result: validation, early stopping, checkpoints, resumption."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bottega
from bottega.errors import RunError
from bottega.runs.atomic_files import checksum, verify_folder
from bottega.runs.store import RunStore
from bottega.runs.summary import summary
from bottega.training.setup import build
from making import write_jsonl


def play(recipe: bottega.Recipe, out: Path) -> list[Any]:
    return list(bottega.train(recipe, out))


def test_the_events_of_a_run(recipe: Callable, tmp_path: Path) -> None:
    events = play(recipe(evaluate={"every": 2}, save={"every": 3}), tmp_path / "run")
    written = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert written == [json.loads(json.dumps(event.document())) for event in events]
    kinds = [(event["type"], event["step"]) for event in written]
    assert kinds[0] == ("started", 0)
    assert kinds[-1] == ("finished", 6)
    assert [step for kind, step in kinds if kind == "stepped"] == [1, 2, 3, 4, 5, 6]
    assert [step for kind, step in kinds if kind == "validated"] == [0, 2, 4, 6]
    stepped = next(event for event in written if event["type"] == "stepped")
    wanted = {"loss", "lr", "grad_norm", "tokens", "tokens_real", "seconds", "memory", "step", "time", "type"}
    assert wanted <= stepped.keys()
    assert stepped["tokens"] <= stepped["tokens_real"]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert summary(tmp_path / "run")["status"] == "finished"


def test_without_evaluate_and_save_there_is_only_the_result(recipe: Callable, tmp_path: Path) -> None:
    events = play(recipe(adapter={"rank": 2}, evaluate=None), tmp_path / "run")
    assert {event.type for event in events} == {"started", "noted", "stepped", "finished"}
    assert [event.message for event in events if event.type == "noted" and event.subject != "format"] == [
        "validation rows are held out but never scored; leave evaluate: null out"
    ]
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


def test_the_newest_and_the_best_are_kept(recipe: Callable, tmp_path: Path) -> None:
    train, validation = (
        write_jsonl(tmp_path / f"{word}.jsonl", [{"prompt": "the", "completion": f" {word}" * 5}] * 4)
        for word in ("cat", "dog")
    )
    made = recipe(
        data={"train": str(train), "validation": str(validation)},
        optim={"steps": 12, "examples": 4, "lr": 0.03, "schedule": "constant"},
        evaluate={"every": 2},
        save={"every": 2, "keep": 2},
    )
    events = play(made, tmp_path / "run")
    losses = {event.step: event.loss for event in events if event.type == "validated" and event.step > 0}
    best = min(losses, key=lambda step: losses[step])
    assert best < 8, "the best must lie further back than the newest, or the test shows nothing"
    kept = {int(path.name[-8:]) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {8, 10, best}
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        assert verify_folder(path) == ""


def test_it_stops_early_and_hands_over_the_best_weights(recipe: Callable, tmp_path: Path) -> None:
    settings = {"steps": 40, "examples": 4, "lr": 0.1, "schedule": "constant"}
    made = recipe(optim=settings, evaluate={"every": 1, "stop_after": 3}, save={"every": 100})
    events = play(made, tmp_path / "run")
    finished = events[-1]
    losses = {event.step: event.loss for event in events if event.type == "validated" and event.step > 0}
    best = min(losses, key=lambda step: losses[step])
    assert finished.step == best + 3 < 40
    assert finished.weights_from == best
    assert finished.validation_loss == losses[best]
    checkpoint = tmp_path / "run" / "checkpoints" / f"step-{best:08d}"
    assert checksum(checkpoint / "model.safetensors") == checksum(tmp_path / "run" / "model" / "model.safetensors")


def test_a_damaged_checkpoint_is_passed_over(recipe: Callable, tmp_path: Path) -> None:
    made = recipe(save={"every": 2, "keep": 3}, optim={"steps": 7, "examples": 4, "lr": 1e-2}, evaluate=None)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    play(made, whole)
    for event in bottega.train(made, cut):
        if event.step == 7:
            break
    newest = cut / "checkpoints" / "step-00000006" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8] + b"12345678")
    events = list(bottega.resume(cut))
    assert events[0].type == "noted"
    assert "optimizer.safetensors is damaged" in events[0].message
    assert next(event for event in events if event.type == "started").step == 4
    name = "model/model.safetensors"
    assert checksum(whole / name) == checksum(cut / name)


def test_a_run_without_checkpoint_resumes_from_its_start(recipe: Callable, tmp_path: Path) -> None:
    made = recipe()
    play(made, tmp_path / "whole")
    for event in bottega.train(made, tmp_path / "cut"):
        if event.step == 4:
            break
    events = list(bottega.resume(tmp_path / "cut"))
    assert next(event for event in events if event.type == "started").step == 0
    name = "model/model.safetensors"
    assert checksum(tmp_path / "whole" / name) == checksum(tmp_path / "cut" / name)
    steps = [event["step"] for event in RunStore(tmp_path / "cut").history() if event["type"] == "stepped"]
    assert steps == [1, 2, 3, 4, 5, 6], "what the resume took back is not part of the history"


def test_a_run_is_run_once_at_a_time(recipe: Callable, tmp_path: Path) -> None:
    events = bottega.train(recipe(), tmp_path / "run")
    next(events)
    with pytest.raises(RunError, match="another process is training it"):
        next(bottega.resume(tmp_path / "run"))
    assert summary(tmp_path / "run")["status"] == "running"
    events.close()
    assert summary(tmp_path / "run")["status"] == "stopped"


def test_the_same_recipe_gives_the_same_bytes(recipe: Callable, tmp_path: Path) -> None:
    for name in ("one", "two"):
        play(recipe(), tmp_path / name)
    name = "model/model.safetensors"
    assert checksum(tmp_path / "one" / name) == checksum(tmp_path / "two" / name)


def test_no_row_is_left_out_at_the_end_of_an_epoch(recipe: Callable) -> None:
    from bottega.data.sampler import Sampler
    from bottega.training.dataset import build_dataset

    made = recipe(optim={"epochs": 3, "examples": 5})
    rows = build_dataset(made)
    examples = rows.train.examples
    feed = Sampler(examples, made, rows.codec)
    assert feed.steps == -(-3 * len(examples) // 5)
    seen = [example.id for update in feed.updates() for example in update.examples]
    for epoch in range(3):
        assert sorted(seen[epoch * len(examples) : (epoch + 1) * len(examples)]) == sorted(e.id for e in examples)
    later = list(feed.updates(4, 20))
    assert [example.id for update in later for example in update.examples] == seen[20:]


def test_updates_by_tokens(recipe: Callable, tmp_path: Path) -> None:
    made = recipe(optim={"epochs": 2, "update_tokens": 50}, save={"every": 2}, evaluate=None)
    whole = play(made, tmp_path / "whole")
    assert all(event.tokens_real >= 50 for event in whole if event.type == "stepped")
    for event in bottega.train(made, tmp_path / "cut"):
        if event.step == 3:
            break
    list(bottega.resume(tmp_path / "cut"))
    name = "model/model.safetensors"
    assert checksum(tmp_path / "whole" / name) == checksum(tmp_path / "cut" / name)


def test_sampling_is_transformers_greedy(recipe: Callable) -> None:

    from bottega.sampling import Sampling

    session = build(recipe())
    model, ids = session.engine.scorer.network, session.data.tokenizer("the cat")["input_ids"]
    ((ours,),) = session.engine.sample([ids], Sampling(tokens=8), ends=session.data.codec.end_tokens)
    model.set_attn_implementation("eager")
    grown = list(ids)
    for _ in range(len(ours.tokens)):
        with torch.no_grad():
            grown.append(int(model(torch.tensor([grown])).logits[0, -1].argmax()))
    assert ours.tokens == grown[len(ids) :]


def test_a_folder_without_recipe_is_no_run(recipe: Callable, tmp_path: Path) -> None:
    for left in ([".lock"], [".lock", "resolved.json"], [".lock", ".resolved.json.partial"]):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name in left:
            (folder / name).touch()
        with pytest.raises(RunError, match="not a run folder"):
            next(bottega.resume(folder))
        assert play(recipe(evaluate=None), folder)[-1].type == "finished"


def test_a_run_that_failed_at_once_may_be_started_again(recipe: Callable, tmp_path: Path) -> None:
    out, data = tmp_path / "run", tmp_path / "late.jsonl"
    broken = recipe(data={"train": str(data)})
    with pytest.raises(bottega.BottegaError):
        play(broken, out)
    write_jsonl(data, [{"prompt": "the", "completion": " cat"}] * 4)
    events = play(broken, out)
    assert events[0].type == "started"
    assert not events[0].resumed


def test_a_lost_finished_event_is_written_by_a_resume(recipe: Callable, tmp_path: Path) -> None:
    finished = play(recipe(evaluate={"every": 3}), tmp_path / "run")[-1]
    log = tmp_path / "run" / "events.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    (told,) = bottega.resume(tmp_path / "run")
    document, wanted = told.document(), finished.document()
    assert {**document, "time": 0} == {**wanted, "time": 0}


def test_a_damaged_best_checkpoint_gives_way_to_the_next(recipe: Callable, tmp_path: Path) -> None:
    settings = {"steps": 40, "examples": 4, "lr": 0.1, "schedule": "constant"}
    made = recipe(optim=settings, evaluate={"every": 1, "stop_after": 2}, save={"every": 1, "keep": 5})
    events = bottega.train(made, tmp_path / "run")
    seen = []
    for event in events:
        seen.append(event)
        losses = {e.step: e.loss for e in seen if e.type == "validated" and e.step > 0}
        best = min(losses, key=lambda step: losses[step]) if losses else 0
        if event.type == "validated" and best and event.step == best + 2:
            (tmp_path / "run" / "checkpoints" / f"step-{best:08d}" / "model.safetensors").write_bytes(b"")
    finished = seen[-1]
    assert any(e.type == "noted" and "next best is taken" in e.message for e in seen)
    assert finished.type == "finished"


# Trains a recipe up to its first event, and prints the libraries whose import began while the collector was at work.
WATCHED_IMPORTS = """
import gc, json, sys

import bottega


class Imports:
    collected = {}

    def find_spec(self, name, path, target=None):
        self.collected.setdefault(name, gc.isenabled())


sys.meta_path.insert(0, Imports())
next(bottega.train(bottega.Recipe.parse(json.loads(sys.argv[1])), sys.argv[2]))
print([name for name in ("torch", "transformers", "peft") if Imports.collected[name]])
"""


def test_libraries_are_imported_without_garbage_collection(recipe: Callable, tmp_path: Path) -> None:
    """Their objects live as long as the process: searching them costs a short run a third of a second."""
    document = json.dumps(recipe(adapter={"rank": 2}, evaluate=None).document())
    command = [sys.executable, "-c", WATCHED_IMPORTS, document, str(tmp_path / "run")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
