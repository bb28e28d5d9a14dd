"""Adapters compared: sizes and cosines are those of their updates as whole matrices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import bottega
from bottega.errors import RecipeError
from bottega.models.low_rank import read_updates


def test_sizes_and_cosines_are_those_of_the_updates(llama: Path, two_adapters: Callable[..., list[Path]]) -> None:
    runs = two_adapters(llama)
    found = bottega.compare_adapters([str(run) for run in runs])
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    layers = {}
    for run in runs:
        layers[run.name] = {
            place: update.b.astype(float) @ update.a
            for place, update in read_updates(model, run / "adapter", str(run)).items()
        }
    places = sorted(layers["all"])
    one, other = (
        np.concatenate([layers[name].get(place, 0 * layers["all"][place]).ravel() for place in places])
        for name in ("all", "some")
    )
    assert found.names == ["all", "some"]
    assert found.base == str(llama)
    np.testing.assert_allclose(found.sizes, [np.linalg.norm(one), np.linalg.norm(other)], rtol=1e-4)
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    np.testing.assert_allclose(found.cosines, [[1, cosine], [cosine, 1]], rtol=1e-3, atol=1e-6)
    place = next(iter(layers["some"]))
    pair = [layers[name][place].ravel() for name in ("all", "some")]
    assert found.layers[place] == pytest.approx(
        pair[0] @ pair[1] / np.linalg.norm(pair[0]) / np.linalg.norm(pair[1]), abs=1e-4
    )
    assert found.document()["layers"].keys() == set(places)


def test_one_alone_is_not_compared() -> None:
    with pytest.raises(RecipeError, match="fewer than two"):
        bottega.compare_adapters(["runs/a"])
