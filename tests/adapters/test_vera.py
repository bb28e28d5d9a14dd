"""VeRA: random matrices from a seed, saved with the adapter, and only vectors trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bottega.adapters import InstallOptions
from bottega.adapters._base import WEIGHTS
from bottega.adapters.vera import Vera

OPTIONS = InstallOptions(peft_task="CAUSAL_LM")


def adapted(llama: Path, **more: Any) -> Any:
    return Vera(rank=8, **more).install(AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32), OPTIONS)


def test_only_vectors_are_trained(llama: Path) -> None:
    trained = {name: weight for name, weight in adapted(llama).model.named_parameters() if weight.requires_grad}
    assert all("vera_lambda" in name and weight.dim() == 1 for name, weight in trained.items())
    assert {len(weight) for name, weight in trained.items() if "lambda_d" in name} == {8}


@pytest.mark.parametrize(("seed", "alike"), [(0, True), (1, False)])
def test_the_random_matrices_follow_from_the_seed_and_are_saved(
    seed: int, alike: bool, llama: Path, tmp_path: Path
) -> None:
    files = []
    for name, made in (("one", adapted(llama)), ("two", adapted(llama, seed=seed))):
        (tmp_path / name).mkdir()
        made.save(tmp_path / name)
        files.append(load_file(tmp_path / name / WEIGHTS))
    (matrix,) = [name for name in files[0] if name.endswith("vera_A")]
    assert torch.equal(files[0][matrix], files[1][matrix]) == alike


def test_a_report_names_its_rank() -> None:
    assert Vera(rank=64).label == "VeRA of rank 64"
