"""Graphs have the names that optimum gives, and any number of rows and tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from bottega.exporting._onnx_graph import write_graphs  # noqa: E402


def test_names_and_free_sizes(llama: Path, tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(llama).eval()
    (path,) = write_graphs(network, tmp_path, generates=True)
    session = onnxruntime.InferenceSession(path)
    cache = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    past = [f"past_key_values.{name}" for name in cache]
    assert [each.name for each in session.get_inputs()] == ["input_ids", "attention_mask", "position_ids", *past]
    assert [each.name for each in session.get_outputs()] == ["logits", *(f"present.{name}" for name in cache)]
    for rows, tokens in ((1, 1), (3, 7)):
        ids = np.random.default_rng(0).integers(5, 200, (rows, tokens))
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "position_ids": np.tile(np.arange(tokens), (rows, 1)),
            **{name: np.zeros((rows, 2, 0, 8), np.float32) for name in past},
        }
        given = session.run(["logits"], feed)[0]
        with torch.no_grad():
            np.testing.assert_allclose(given, network(torch.tensor(ids)).logits.numpy(), rtol=0, atol=1e-4)
