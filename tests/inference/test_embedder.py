"""Embeddings of texts: their length, their pooling, and texts that have none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import bottega
from bottega.errors import DataError, ModelError
from bottega.inference.embedder import Embedder
from making import make_model

TEXTS = ["the cat sat", "red", "a dog ran on the mat under the tree and then it was very happy"]


@pytest.fixture(scope="module")
def embedder(bert: Path) -> Embedder:
    return bottega.load_embedder(bert, dtype="float32")


def test_a_vector_has_length_1_and_depends_on_its_text_alone(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (3, 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(embedder.embed([text])[0], vector, rtol=0, atol=1e-5)
    assert embedder.embed([]).shape == (0, 32)


def test_a_text_too_long_is_cut(bert: Path) -> None:
    embedder = bottega.load_embedder(bert, dtype="float32")
    long = "the cat sat on the mat " * 100
    assert embedder.codec.max_length == 128
    assert np.isfinite(embedder.embed([long])).all()
    assert embedder.codec.tally.truncated == 1


def test_a_text_without_tokens_has_no_vector(tmp_path: Path) -> None:
    embedder = bottega.load_embedder(make_model(tmp_path / "base", "bert", bos=False))
    with pytest.raises(DataError) as caught:
        embedder.embed(["the cat", ""])
    assert caught.value.where == "the text ''"


def test_progress_is_counted_in_texts(embedder: Embedder) -> None:
    calls: list[tuple[int, int]] = []
    embedder.embed(TEXTS, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (3, 3)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        bottega.load_embedder(tmp_path / "none")


def test_pooling_is_as_a_folder_declares(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "base", "bert")
    plain = bottega.load_embedder(folder)
    assert plain.pooling == "mean"
    (folder / "1_Pooling").mkdir()
    declared = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(declared))
    assert bottega.load_embedder(folder).pooling == "first"
    assert bottega.load_embedder(folder, pooling="last").pooling == "last"
    one, other = (bottega.load_embedder(folder, pooling=way).embed(["the cat sat"]) for way in ("first", "mean"))
    assert np.abs(one - other).max() > 1e-3
    network, ids = plain.scorer.network, torch.tensor([plain.codec.tokenizer("the cat sat")["input_ids"]])
    network.set_attn_implementation("eager")
    hidden = network(ids).last_hidden_state[0].detach().float()
    torch.testing.assert_close(
        torch.from_numpy(one[0]), torch.nn.functional.normalize(hidden[0], dim=0), rtol=0, atol=2e-2
    )
