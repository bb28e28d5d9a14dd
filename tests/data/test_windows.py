"""Texts longer than a row: every pass cuts them elsewhere, and loses no token that it does not count as lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bottega
from bottega.data.sampler import Sampler
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import checksum
from bottega.training.dataset import build_dataset
from making import WORDS, make_model, write_jsonl

LENGTH = 16
KINDS = {"causal": "llama", "masked": "bert", "span": "t5"}

OWN = """
from bottega.objectives.causal import Causal

class Late(Causal):
    def rows(self, record, codec):
        found = super().rows(record, codec)
        for (row,) in found:
            row.weight[: len(row.weight) // 2] = 0
        return found
"""


def text(words: int) -> str:
    return " ".join(WORDS[number * number % len(WORDS)] for number in range(words))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def feed(tmp_path: Path) -> Callable[..., Sampler]:
    def build(kind: str, sizes: list[int], objective: dict[str, Any] | None = None, **data: Any) -> Sampler:
        folder = tmp_path / kind
        model = folder if folder.exists() else make_model(folder, KINDS.get(kind, "llama"))
        rows = write_jsonl(tmp_path / "texts.jsonl", [{"text": text(size)} for size in sizes])
        document = {
            "seed": 3,
            "model": {"base": str(model)},
            "data": {"train": str(rows), "max_length": LENGTH, **data},
            "objective": objective or {"kind": kind},
        }
        recipe = Recipe.parse(document)
        prepared = build_dataset(recipe)
        return Sampler(prepared.train.examples, recipe, prepared.codec)

    return build


def windows(feed: Sampler, turn: int) -> list[np.ndarray]:
    """The tokens of text in each window of a pass, in the order of the shelf."""
    objective, codec = feed.windows.objective, feed.windows.codec
    examples = [feed.windows.example(index, turn) for index in range(len(feed.examples))]
    return [objective.window_tokens(example.rows[0], codec) for example in examples]


def predicted(feed: Sampler, turn: int) -> np.ndarray:
    overlap = feed.windows.objective.overlap
    return np.concatenate([window[overlap:] for window in windows(feed, turn)])


def test_each_pass_cuts_elsewhere_and_sees_every_token_in_order(feed: Callable[..., Sampler], kind: str) -> None:
    made = feed(kind, [70])
    whole, seen = predicted(made, 0), set()
    for turn in range(1, 40):
        bounds = [made.windows._bounds(index, turn) for index in range(len(made.examples))]
        if kind == "span" and any(one is not None and one[1] - one[0] < 2 for one in bounds):
            continue  # nothing can be left out of one token, so that window stays as it was first cut
        found = predicted(made, turn)
        missing = len(whole) - len(found)
        # Only tokens before the first cut may be missing, and fewer than the last window of the first pass has.
        assert (found == whole[missing:]).all()
        assert missing < made.windows._lengths(0)[1]
        seen.add(len(windows(made, turn)[0]) + missing)
    assert len(seen) > 6


def test_a_window_is_what_its_tokens_would_make_alone(feed: Callable[..., Sampler], kind: str) -> None:
    made = feed(kind, [70])
    objective, codec = made.windows.objective, made.windows.codec
    for turn in range(5):
        for index in range(len(made.examples)):
            (row,) = made.windows.example(index, turn).rows
            again = objective.window_row(objective.window_tokens(row, codec), codec)
            assert again is not None
            for name in ("tokens", "at", "label", "weight"):
                assert np.array_equal(getattr(row, name), getattr(again, name))
            assert len(row.tokens) <= LENGTH
            if kind == "causal":
                assert np.array_equal(row.label[:-1], row.tokens[1 : len(row.label)])


def test_short_texts_and_other_texts_stay_whole(feed: Callable[..., Sampler]) -> None:
    made = feed("causal", [3, 70, 4, 50])
    first = windows(made, 0)
    texts = [made.examples.siblings(index) for index in (0, 1, len(first) - 1)]
    assert [len(one) for one in (texts[0], texts[1])] == [1, texts[1].stop - 1]
    for turn in range(1, 20):
        found = windows(made, turn)
        assert (found[0] == first[0]).all()
        for one in texts[1:]:
            joined = np.concatenate([found[index][1:] for index in one])
            whole = np.concatenate([first[index][1:] for index in one])
            assert (joined == whole[len(whole) - len(joined) :]).all()


def test_windows_may_be_fixed(feed: Callable[..., Sampler]) -> None:
    made = feed("causal", [70], windows="fixed")
    for turn in range(1, 10):
        assert all((one == other).all() for one, other in zip(windows(made, turn), windows(made, 0), strict=True))


def test_rows_that_an_own_objective_changes_stay_as_it_made_them(feed: Callable[..., Sampler], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    made = feed("causal", [70], {"kind": "custom", "file": str(tmp_path / "own.py")})
    for turn in range(3):
        assert all(made.windows.example(index, turn).rows[0].weight[0] == 0 for index in range(len(made.examples)))


OTHER = """
from typing import ClassVar

from bottega.batch import Loss, Term
from bottega.objectives import Objective
from bottega.records import Text

class Own(Objective):
    reads: ClassVar = (Text,)
    can_split: ClassVar = True

    def rows(self, record, codec):
        return [(row,) for row in codec.encode_document(record)]

    def loss(self, scores, batch):
        return Loss({"nll": Term(-(batch.weight * scores["logp"]).sum(), "token")})
"""


def test_an_own_objective_that_knows_no_windows_keeps_its_rows(feed: Callable[..., Sampler], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OTHER, encoding="utf-8")
    made = feed("causal", [70], {"kind": "custom", "file": str(tmp_path / "own.py")})
    assert len(made.examples) > 2
    for index, example in enumerate(made.examples):
        assert np.array_equal(made.windows.example(index, 3).rows[0].tokens, example.rows[0].tokens)


def test_a_part_of_a_source_is_cut_by_the_passes_over_it(feed: Callable[..., Sampler], tmp_path: Path) -> None:
    made = feed("causal", [70])
    count = len(made.examples)
    made.parts = [(made.parts[0][0], count // 2)]
    made.epoch_examples = count // 2
    stream = made._stream(0)
    taken = [next(stream) for _ in range(4 * count)]
    for turn in range(3):
        assert sorted(one.example for one in taken if one.turn == turn) == list(range(count))


def test_updates_by_tokens_count_the_windows_that_are_seen(feed: Callable[..., Sampler]) -> None:
    made = feed("causal", [70])
    for turn in range(10):
        for index in range(len(made.examples) - 1):
            told, real = made.windows.tokens(index, turn), made.windows.example(index, turn).tokens
            assert abs(told - real) <= 1


def test_windows_do_not_depend_on_resuming_or_micro_batches(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama")
    rows = write_jsonl(tmp_path / "texts.jsonl", [{"text": text(40)}, {"text": text(9)}, {"text": text(55)}])
    document = {
        "model": {"base": str(model), "dtype": "float32"},
        "data": {"train": str(rows), "max_length": LENGTH},
        "objective": {"kind": "causal"},
        "optim": {"epochs": 2, "examples": 3, "tokens": 32},
        "save": {"every": 3},
    }
    made = Recipe.parse(document)
    whole = [event.loss for event in bottega.train(made, tmp_path / "whole") if event.type == "stepped"]
    for event in bottega.train(made, tmp_path / "cut"):
        if event.type == "stepped" and event.step == 7:
            break
    list(bottega.resume(tmp_path / "cut"))
    name = "model/model.safetensors"
    assert checksum(tmp_path / "whole" / name) == checksum(tmp_path / "cut" / name)
    other = Recipe.parse(document | {"optim": {**document["optim"], "tokens": 4096}})
    large = [event.loss for event in bottega.train(other, tmp_path / "large") if event.type == "stepped"]
    assert large == pytest.approx(whole, rel=1e-4)
