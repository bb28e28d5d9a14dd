"""Adapters combined: the result computes the sum of their updates, by PEFT alone too, and what cannot be is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import bottega
from bottega.errors import BottegaError, ModelError, RecipeError, RunError
from bottega.exporting._source import open_trained
from bottega.models.low_rank import read_updates
from making import make_model

IDS = torch.arange(3, 20)[None]


@pytest.fixture
def runs(llama: Path, two_adapters: Callable[..., list[Path]]) -> list[Path]:
    return two_adapters(llama)


def summed(llama: Path, runs: list[Path], weights: list[float]) -> Any:
    """The base with the updates added to its weights."""
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    for run, weight in zip(runs, weights, strict=True):
        for place, update in read_updates(model, run / "adapter", str(run)).items():
            delta = torch.from_numpy(update.b @ update.a)
            model.get_submodule(place).weight.data += weight * delta
    return model


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, -0.75]])
def test_the_default_is_exact(weights: list[float], llama: Path, runs: list[Path], tmp_path: Path) -> None:
    parts = dict(zip(map(str, runs), weights, strict=True))
    found = bottega.combine_adapters(parts, tmp_path / "both")
    assert (found.method, found.rank) == ("cat", 7)
    assert found.error < 1e-6
    assert found.weights == dict(zip(["all", "some"], weights, strict=True))
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32), str(tmp_path / "both")
    )
    with torch.no_grad():
        wanted = summed(llama, runs, weights)(input_ids=IDS).logits
        torch.testing.assert_close(plain(input_ids=IDS).logits, wanted, atol=1e-4, rtol=1e-4)
    # It is a model like any other, and knows its base.
    (answer,) = bottega.load(str(tmp_path / "both"), dtype="float32").generate(
        ["the cat"], bottega.Sampling(tokens=4, temperature=0)
    )
    assert answer[0].text
    assert open_trained(str(tmp_path / "both")).source.base == str(llama)


@pytest.mark.parametrize("options", [{"method": "svd", "rank": 3}, {"method": "ties"}, {"method": "dare", "rank": 4}])
def test_others_say_how_far_they_are_from_the_sum(
    options: dict[str, Any], llama: Path, runs: list[Path], tmp_path: Path
) -> None:
    found = bottega.combine_adapters({str(run): 1.0 for run in runs}, tmp_path / "both", **options)
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    exact, written = ({}, {})
    for run in runs:
        for place, update in read_updates(model, run / "adapter", str(run)).items():
            exact[place] = exact.get(place, 0) + update.b.astype(float) @ update.a
    for place, update in read_updates(model, tmp_path / "both", "both").items():
        written[place] = update.b.astype(float) @ update.a
    squares = [((exact[place] - written[place]) ** 2).sum() for place in exact]
    error = (sum(squares) / sum((value**2).sum() for value in exact.values())) ** 0.5
    assert found.error == pytest.approx(error, rel=1e-4)
    assert 0 < found.error <= found.worst[1]
    assert found.rank == options.get("rank", 7)


def test_adapters_of_different_bases_are_named(
    llama: Path, two_adapters: Callable[..., list[Path]], runs: list[Path], train: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other", hidden_size=64)
    run = train(other, tmp_path / "foreign", adapter={"rank": 2})
    with pytest.raises(ModelError, match="another base") as caught:
        bottega.combine_adapters({str(runs[0]): 1.0, str(run): 1.0}, tmp_path / "both")
    assert str(other) in caught.value.what
    assert str(run) in str(caught.value.where)


@pytest.mark.parametrize(
    ("weights", "options", "word"),
    [
        ([1.0], {}, "fewer than two"),
        ([1.0, float("nan")], {}, "weight nan"),
        ([1.0, 0.0], {}, "weight 0"),
        ([1.0, 1.0], {"method": "tie"}, "unknown method"),
        ([1.0, 1.0], {"method": "svd"}, "needs to know"),
        ([1.0, 1.0], {"rank": 0}, "rank 0"),
        ([1.0, 1.0], {"method": "ties", "density": 0.0}, "density"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(
    weights: list[float], options: dict[str, Any], word: str, tmp_path: Path
) -> None:
    parts = {f"runs/{index}": weight for index, weight in enumerate(weights)}
    with pytest.raises(RecipeError, match=word):
        bottega.combine_adapters(parts, tmp_path / "both", **options)


def test_two_of_one_name_other_kinds_and_a_taken_folder(
    llama: Path, runs: list[Path], train: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    twin = train(llama, tmp_path / "more" / "all", adapter={"rank": 2})
    factors = train(llama, tmp_path / "factors", adapter={"kind": "ia3"})
    refused: list[tuple[list[Path], Path, type[BottegaError], str]] = [
        ([runs[0], twin], tmp_path / "both", ModelError, "two adapters are called all"),
        ([runs[0], factors], tmp_path / "both", ModelError, "LoRA of linear layers only"),
        (runs, tmp_path, RunError, "already exists"),
    ]
    for names, out, kind, word in refused:
        with pytest.raises(kind, match=word):
            bottega.combine_adapters({str(name): 1.0 for name in names}, out)
    assert not (tmp_path / "both").exists()


def test_it_is_plain_data(runs: list[Path], tmp_path: Path) -> None:
    found = bottega.combine_adapters({str(run): 1.0 for run in runs}, tmp_path / "both")
    assert json.loads(json.dumps(found.document()))["folder"] == str(tmp_path / "both")


def test_adapters_of_an_encoder_stay_of_an_encoder(train: Callable[..., Path], tmp_path: Path) -> None:
    base = make_model(tmp_path / "bert", "bert")
    rows = [{"text": f"the {word} sat on the mat and it was very happy then"} for word in ("cat", "dog", "tree")] * 4
    sections = {"objective": {"kind": "masked"}, "optim": {"steps": 1, "examples": 2}}
    runs = [train(base, tmp_path / name, rows, adapter={"rank": 2}, **sections) for name in ("one", "two")]
    bottega.combine_adapters({str(run): 1.0 for run in runs}, tmp_path / "both")
    merged = bottega.export(tmp_path / "both", tmp_path / "whole", format="merged", rows=0)
    assert (merged.folder / "model.safetensors").exists()
