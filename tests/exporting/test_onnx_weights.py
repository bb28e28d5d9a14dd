"""Weights in fewer bits: smaller files, whose logits are near those of the whole ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from bottega.exporting._onnx_graph import write_graphs  # noqa: E402
from bottega.exporting._onnx_weights import quantize  # noqa: E402
from bottega.inference.runtimes.onnx import MODEL, OnnxRuntime  # noqa: E402


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("model.onnx*"))


def test_quantized_weights(llama: Path, tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(llama).eval()
    whole = tmp_path / "whole"
    whole.mkdir()
    network.config.save_pretrained(whole)
    write_graphs(network, whole, generates=True)
    tokens = np.arange(5, 30)
    logits = OnnxRuntime(whole, "language").logits(tokens)
    for bits, least in ((8, 0.999), (4, 0.85)):
        folder = tmp_path / str(bits)
        shutil.copytree(whole, folder)
        quantize(folder / MODEL, bits)
        assert size(folder) < size(whole)
        rounded = OnnxRuntime(folder, "language").logits(tokens)
        assert least < np.corrcoef(logits.ravel(), rounded.ravel())[0, 1] < 1
