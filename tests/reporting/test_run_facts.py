"""What the events and files of a run tell: what was trained, and whether it overfitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.events import Validated, parse
from bottega.hardware.memory import format_peak_memory
from bottega.recipe.schema import Recipe
from bottega.reporting.run_facts import describe_run, find_started, summarize_losses
from bottega.runs.curves import peak_memory
from making import make_run, make_started, make_stepped


def test_peak_memory_of_host_and_gpu() -> None:
    events = [
        {"type": "stepped", "memory": 3e9, "device_memory": 1e9},
        {"type": "stepped", "memory": 2e9, "device_memory": 2e9},
    ]
    assert format_peak_memory(*peak_memory(list(map(parse, events)))) == "3.0 GB (host), 2.0 GB (GPU)"
    assert format_peak_memory(*peak_memory([parse({**event, "device_memory": 0}) for event in events])) == "3.0 GB"


def validated(step: int, loss: float) -> Validated:
    return Validated(step=step, loss=loss, metrics={}, best=False, seconds=1.0)


def test_the_first_start_is_found() -> None:
    first, again = make_started(), make_started(resumed=True, step=3)
    assert find_started([make_stepped(1), first, again]) is first
    assert find_started([make_stepped(1)]) is None


def test_the_facts_of_a_run(tmp_path: Path) -> None:
    events = [make_started(), make_stepped(1), make_stepped(2)]
    document = {
        "model": {"base": "smol"},
        "adapter": {"rank": 4},
        "data": {"train": "rows.jsonl"},
        "objective": {"kind": "sft"},
    }
    recipe = Recipe.parse(document)
    place = {"hardware": {"accelerator": None, "processor": "some CPU"}}
    facts = describe_run(make_run(tmp_path / "run", *events), recipe, place, events)
    assert recipe.adapter is not None
    assert facts == {
        "objective": "sft",
        "method": recipe.adapter.label,
        "began from": "smol",
        "weights": "1,000 of 5,000,000 trained",
        "rows": "1,200 examples, 30 for validation",
        "updates": "2 of 40",
        "training took": "4 s",
        "tokens": "200 (150 computed)",
        "peak memory": "3.0 GB",
        "on": "some CPU",
        "precision": "float32",
    }


def test_what_a_run_did_not_measure_is_left_out(tmp_path: Path) -> None:
    document = {
        "model": {"shape": {"model_type": "llama"}, "tokenizer": "t"},
        "data": {"train": "rows.jsonl"},
        "objective": {"kind": "causal"},
    }
    facts = describe_run(make_run(tmp_path / "run"), Recipe.parse(document), {}, [])
    assert facts["method"] == "all weights"
    assert facts["began from"] == "none (trained from scratch)"
    assert not {"weights", "rows", "updates", "peak memory", "on", "precision"} & set(facts)


def test_losses_that_fell_to_the_end_show_no_overfitting() -> None:
    updates = [make_stepped(step, loss=float(20 - step)) for step in range(1, 21)]
    final, trend = summarize_losses([validated(0, 3.0), *updates, validated(20, 2.0)])
    # The mean of the last two of twenty updates.
    assert "the validation loss is 2.000 and the training loss 0.500 " in final
    assert trend == "The validation loss was lowest at the end: there is no sign of overfitting."


def test_a_validation_loss_that_rose_again_is_reported() -> None:
    events = [make_stepped(1), validated(1, 1.5), make_stepped(2), validated(2, 1.25), validated(3, 1.75)]
    _, trend = summarize_losses(events)
    assert trend == "The validation loss was lowest, 1.250, after update 2, and rose by 0.500 until the end."


@pytest.mark.parametrize("events", [[], [validated(1, 1.0), make_stepped(1)], [validated(1, 1.0), validated(2, 1.0)]])
def test_a_single_loss_shows_no_trend(events: list[Validated]) -> None:
    assert summarize_losses(events) == []
