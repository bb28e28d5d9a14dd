"""The trained model an export starts from: merged, as it was trained, and at which tokens it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import bottega
from bottega.errors import ModelError, RunError
from bottega.exporting._source import open_trained
from bottega.inference.runtimes.transformers import compute_logits
from bottega.recipe.files import RESOLVED
from bottega.recipe.schema import Recipe
from making import make_model


def test_a_run_is_merged_into_the_weights_of_its_base(adapted: Path, llama: Path) -> None:
    model = open_trained(str(adapted))
    assert (model.head, model.labels, model.source.base) == ("language", [], str(llama))
    row = np.arange(5, 15)
    module, network = model.reference()
    trained = compute_logits(network, row)
    merged = model.merged(torch.float32)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    np.testing.assert_allclose(compute_logits(merged.eval(), row), trained, rtol=0, atol=1e-4)
    base = compute_logits(AutoModelForCausalLM.from_pretrained(llama).eval(), row)
    assert np.abs(base - trained).max() > 1e-3
    assert not module.training
    assert {weight.dtype for weight in model.merged(torch.bfloat16).parameters()} == {torch.bfloat16}


def test_a_run_without_a_result_is_refused(llama: Path, tmp_path: Path) -> None:
    document = {"model": {"base": str(llama)}, "data": {"train": "rows.jsonl"}, "objective": {"kind": "sft"}}
    (tmp_path / RESOLVED).write_text(json.dumps(Recipe.parse(document).document()))
    with pytest.raises(RunError, match="this run has no result yet") as caught:
        open_trained(str(tmp_path))
    assert caught.value.fix == f"finish it: bottega train --resume {tmp_path}"
    with pytest.raises(ModelError, match="no such folder"):
        open_trained(str(tmp_path / "none"))


def test_end_tokens_without_a_generation_config_are_those_of_the_config(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", eos_token_id=7)
    (folder / "generation_config.json").unlink()
    assert 7 in open_trained(str(folder)).ends
    assert bottega.export(folder, tmp_path / "out").proof is not None
