"""The guard against forgetting: what it adds to an update, to the last number, and when it ends a run."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bottega
from bottega.batch import count_units
from bottega.errors import DataError, RecipeError
from bottega.packing import pack, split_into_micro_batches
from bottega.recipe.schema import Recipe
from bottega.runs.store import history
from bottega.seeding import derive
from bottega.training.replay import Replay, accumulate
from bottega.training.setup import Run, build
from making import WORDS, make_model, write_jsonl

GENERAL = [{"text": f"{one} {other} and then {one} ran"} for one in WORDS for other in WORDS[:3]]
ROWS = [{"instruction": f"the cat {word}", "output": "red blue"} for word in WORDS]


def recipe(folder: Path, guard: dict[str, Any], **more: Any) -> Recipe:
    folder.mkdir(exist_ok=True)
    general = write_jsonl(folder / "general.jsonl", GENERAL)
    return Recipe.parse(
        {
            "model": {"base": str(make_model(folder / "model")), "dtype": "float32"},
            "data": {"train": str(write_jsonl(folder / "rows.jsonl", ROWS)), "validation": 0.2},
            "objective": {"kind": "sft"},
            "optim": {"steps": 30, "examples": 8, "lr": 1e-2},
            "evaluate": {"every": 5},
            "guard": {"replay": str(general), **guard},
            **more,
        }
    )


def gradients(session: Run) -> dict[str, torch.Tensor]:
    found = {name: gradient.clone() for name, gradient in session.engine.optimizer.gradients.items()}
    session.engine.optimizer.gradients.clear()
    assert found
    return found


def held(session: Run, examples: list[Any], tokens: int, *, weight: float, anchor: float) -> dict[str, torch.Tensor]:
    batches = [pack(group) for group in split_into_micro_batches(examples, tokens)]
    assert session.replay is not None
    objective, seed = session.replay.objective, partial(derive, 0, "guard", 1)
    accumulate(session.engine, objective, batches, weight=weight, anchor=anchor, step=1, dropout_seed=seed)
    return gradients(session)


@pytest.mark.parametrize("more", [{}, {"adapter": {"rank": 4}}], ids=["full", "lora"])
def test_the_anchor_holds_nothing_that_has_not_moved(more: dict[str, Any], tmp_path: Path) -> None:
    session = build(recipe(tmp_path, {"share": 0, "anchor": 0.5}, **more))
    assert session.replay is not None
    examples = session.replay.held_out[:4]
    still = held(session, examples, 1000, weight=0.0, anchor=1.0)
    assert all(float(gradient.abs().max()) < 1e-6 for gradient in still.values())
    with torch.no_grad():
        for weight in session.engine.scorer.model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    moved = held(session, examples, 1000, weight=0.0, anchor=1.0)
    assert max(float(gradient.abs().max()) for gradient in moved.values()) > 1e-3


@pytest.mark.parametrize("more", [{}, {"adapter": {"rank": 4}}], ids=["full", "lora"])
def test_the_gradient_is_that_of_both_losses_however_it_is_divided(more: dict[str, Any], tmp_path: Path) -> None:
    session = build(recipe(tmp_path, {"share": 0.25, "anchor": 0.3}, **more))
    assert session.replay is not None
    with torch.no_grad():
        for weight in session.engine.scorer.model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)
    examples = session.replay.held_out[:6]
    both = held(session, examples, 1000, weight=0.5, anchor=0.3)
    parts = held(session, examples, 12, weight=0.5, anchor=0.3)
    loss, apart = (held(session, examples, 1000, weight=w, anchor=a) for w, a in ((1.0, 0.0), (0.0, 1.0)))
    batch = pack(examples)
    scores = session.engine.scorer(batch, frozenset({"logp"}))
    session.replay.objective.loss(scores, batch).total(count_units([batch])).backward()
    plain = gradients(session)
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, parts[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient, 0.5 * loss[name] + 0.3 * apart[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(loss[name], plain[name], rtol=1e-4, atol=1e-6)


def test_replay_rows_are_sampled_evenly_and_by_step(tmp_path: Path) -> None:
    session = build(recipe(tmp_path, {"share": 0.3}))
    guarded = session.replay
    assert guarded is not None
    drawn = [guarded.examples_at(step) for step in range(1, 200)]
    assert {len(part) for part in drawn} == {3, 4}, "0.3 / 0.7 of 8 is 3.43"
    assert np.mean([len(part) for part in drawn]) == pytest.approx(0.3 / 0.7 * 8, abs=0.02)
    counts = Counter(example.id for part in drawn for example in part)
    assert len(counts) == len(guarded.train_indices)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert not {example.id for example in guarded.held_out} & set(counts)
    again = Replay(session.recipe, session.data.codec)
    assert [example.id for example in again.examples_at(57)] == [example.id for example in drawn[56]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model pre-trained on the general rows."""
    folder = tmp_path_factory.mktemp("guard")
    first = recipe(folder / "first", {"share": 0.5}, optim={"steps": 60, "examples": 8, "lr": 1e-2}, evaluate=None)
    list(bottega.train(first, folder / "base"))
    return folder / "base"


@pytest.mark.slow
def test_replay_and_anchor_reduce_forgetting(base: Path, tmp_path: Path) -> None:
    found = {}
    guards: dict[str, dict[str, Any]] = {
        "none": {"share": 0, "stop_when": 99.0}, "replay": {"share": 0.3}, "anchor": {"share": 0, "anchor": 1.0},
    }  # fmt: skip
    for name, guard in guards.items():
        given = recipe(tmp_path / name, guard, model={"base": str(base), "dtype": "float32"})
        run = tmp_path / f"run-{name}"
        stepped = [event for event in bottega.train(given, run) if event.type == "stepped"]
        assert ("general" in stepped[-1].metrics) == (name != "none")
        assert ("divergence" in stepped[-1].metrics) == (name == "anchor")
        validated = [event["metrics"]["general_loss"] for event in history(run) if event["type"] == "validated"]
        found[name] = validated[-1] - validated[0]
    assert found["replay"] < found["none"]
    assert found["anchor"] < found["none"]


def test_a_run_that_forgets_too_much_ends(base: Path, tmp_path: Path) -> None:
    guard = {"share": 0, "stop_when": 0.05}
    given = recipe(tmp_path / "second", guard, model={"base": str(base), "dtype": "float32"})
    events = list(bottega.train(given, tmp_path / "run"))
    finished = events[-1]
    assert finished.type == "finished"
    assert finished.step < 30
    assert "the loss on replay rows has risen by" in finished.reason
    assert list(bottega.resume(tmp_path / "run")) == []


def test_conversations_are_replayed_too(tmp_path: Path) -> None:
    turns = [{"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": "red"}]} for one in WORDS]
    given = recipe(tmp_path, {"replay": str(write_jsonl(tmp_path / "turns.jsonl", turns))}, objective={"kind": "dpo"},
                   data={"train": str(write_jsonl(tmp_path / "pairs.jsonl", [
                       {"prompt": one, "chosen": " a", "rejected": " b"} for one in WORDS]))}, evaluate=None,
                   optim={"steps": 2, "examples": 12})  # fmt: skip
    stepped = [event for event in bottega.train(given, tmp_path / "run") if event.type == "stepped"]
    assert stepped[0].metrics["general"] > 0


@pytest.mark.parametrize(
    ("guard", "more", "words"),
    [
        ({"stop_when": 0.1}, {"evaluate": None}, "add evaluate"),
        ({"share": 0}, {}, "has no effect"),
        ({"anchor": 0.1}, {"objective": {"kind": "classify"}}, "starts with a new head"),
        ({"share": 0.1}, {"objective": {"kind": "contrastive"}}, "add the general rows to data.train"),
        ({"share": 1.0}, {}, "guard.share"),
        ({"shares": 0.1}, {}, "did you mean share"),
    ],
)
def test_recipes_that_replay_does_not_support(
    guard: dict[str, Any], more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, guard, **more)
    assert words in str(caught.value)


def test_replay_rows_are_read_as_data_says(tmp_path: Path) -> None:
    names = ["caffè", "perché", "città", "tè", "là", "già"]
    general = tmp_path / "general.csv"
    general.write_bytes("\n".join(["body;kind", *(f"{name};a" for name in names), " ;a"]).encode("cp1252"))
    rows = tmp_path / "rows.csv"
    rows.write_bytes("\n".join(["body;kind", *(f"{word};{word[0]}" for word in WORDS)]).encode("cp1252"))
    options = {"encoding": "cp1252", "delimiter": ";", "mapping": {"text": "body"}, "bad_rows": "drop"}
    given = recipe(
        tmp_path, {"replay": str(general)}, data={"train": str(rows), **options}, objective={"kind": "causal"},
        evaluate=None,
    )  # fmt: skip
    run = build(given)
    assert run.replay is not None
    tokens = [row.tokens for example in run.replay.examples for row in example.rows]
    texts = [run.data.tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens]
    assert texts == names  # the blank row is left out
    with pytest.raises(DataError, match="empty text") as caught:
        build(Recipe.parse({**given.document(), "data": {**given.document()["data"], "bad_rows": "error"}}))
    assert caught.value.where == "general.csv line 8, field text"


def test_replay_sources_keep_their_own_reading_options(tmp_path: Path) -> None:
    general = write_jsonl(tmp_path / "words.jsonl", [{"words": f"{word} ran"} for word in WORDS])
    replay = {"path": str(general), "mapping": {"text": "words"}}
    rows = write_jsonl(tmp_path / "bodies.jsonl", [{"body": word} for word in WORDS])
    data = {"train": str(rows), "mapping": {"text": "body"}}
    run = build(recipe(tmp_path, {"replay": replay}, data=data, objective={"kind": "causal"}, evaluate=None))
    assert run.replay is not None
    assert len(run.replay.examples) == len(WORDS)


def test_a_single_replay_row_is_too_few(tmp_path: Path) -> None:
    one = str(write_jsonl(tmp_path / "one.jsonl", GENERAL[:1]))
    with pytest.raises(DataError, match="too few"):
        build(recipe(tmp_path, {"replay": one}))
    with pytest.raises(DataError, match="no such file"):
        build(recipe(tmp_path, {"replay": str(tmp_path / "none.jsonl")}))
