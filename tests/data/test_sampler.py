"""What an update holds: every row so often as its source's weight says, in an order only the seed decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bottega.data.sampler import Sampler
from bottega.recipe.schema import Recipe
from bottega.training.dataset import build_dataset
from making import make_model, make_tokenizer, write_jsonl


@pytest.fixture
def feed(tmp_path: Path) -> Callable[..., Sampler]:
    model = make_model(tmp_path / "model", "llama")
    make_tokenizer(model)

    def build(sizes: dict[str, int], weights: dict[str, float], **optim: Any) -> Sampler:
        train = []
        for name, size in sizes.items():
            rows = [{"prompt": f"{name} {number}", "completion": " the cat"} for number in range(size)]
            path = write_jsonl(tmp_path / f"{name}.jsonl", rows)
            train.append({"path": str(path), "weight": weights.get(name, 1.0)})
        document = {
            "model": {"base": str(model)},
            "data": {"train": train},
            "objective": {"kind": "sft"},
            "optim": {"examples": 4, **optim},
        }
        recipe = Recipe.parse(document)
        rows = build_dataset(recipe)
        return Sampler(rows.train.examples, recipe, rows.codec)

    return build


def taken(feed: Sampler, count: int, position: int = 0) -> list[str]:
    return [feed.examples[one.example].id for one in islice(feed._stream(position), count)]


def test_an_epoch_is_every_row_once(feed: Callable[..., Sampler]) -> None:
    made = feed({"a": 13, "b": 7}, {})
    assert made.epoch_examples == 20
    for epoch in range(3):
        assert sorted(taken(made, 20, 20 * epoch)) == sorted(example.id for example in made.examples)
    assert taken(made, 20) != taken(made, 20, 20)


def test_weights_mix_sources(feed: Callable[..., Sampler]) -> None:
    made = feed({"a": 10, "b": 12, "c": 3}, {"b": 0.25, "c": 2})
    assert made.epoch_examples == 10 + 3 + 6
    epochs = [Counter(taken(made, 19, 19 * epoch)) for epoch in range(4)]
    for counted in epochs:
        by_file = Counter(name.split(".")[0] for name, count in counted.items() for _ in range(count))
        assert by_file == {"a": 10, "b": 3, "c": 6}
        assert all(count == 2 for name, count in counted.items() if name.startswith("c"))
    parts = [{name for name in counted if name.startswith("b")} for counted in epochs]
    assert len(set.union(*parts)) == 12, "four quarters are all of it"


def test_a_weight_that_does_not_divide_leaves_no_row_behind(feed: Callable[..., Sampler]) -> None:
    made = feed({"a": 4, "b": 7}, {"b": 0.4})
    counted = Counter(taken(made, made.epoch_examples * 7))
    assert {count for name, count in counted.items() if name.startswith("b")} == {3}


def test_the_stream_goes_on_from_anywhere(feed: Callable[..., Sampler]) -> None:
    made = feed({"a": 5, "b": 6}, {"b": 1.5}, steps=9)
    whole = taken(made, 50)
    assert all(taken(made, 50 - position, position) == whole[position:] for position in range(50))
    updates = list(made.updates())
    assert [example.id for update in updates for example in update.examples] == whole[:36]
    assert next(made.updates(4, 16)).examples[0].id == whole[16]


def test_epochs_are_counted_in_what_is_taken(feed: Callable[..., Sampler]) -> None:
    assert feed({"a": 10, "b": 12}, {"b": 0.5}, epochs=2).steps == 8
    assert feed({"a": 10}, {"a": 3}, epochs=1).steps == 8
