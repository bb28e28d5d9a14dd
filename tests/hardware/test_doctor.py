"""What this machine can do, and what to improve."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
import torch

from bottega.hardware import doctor, other_programs


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    assert doctor._missing_extras() == ["no base can be kept in 4 bits (QLoRA): pip install 'bottega[quantize]'"]


FACTS: dict[str, Any] = {
    "bfloat16": True,
    "accelerator": None,
    "gflops": {"float32": 10, "bfloat16": 30},
    "threads": 4,
    "cores": 4,
    "cores_of_others": 0.1,
    "disk_free_gb": 100.0,
}


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({}, []),
        ({"bfloat16": False}, ["this processor is not known to multiply bfloat16: model.dtype=auto means float32"]),
        ({"bfloat16": False, "accelerator": "H200"}, []),
        (
            {"gflops": {"float32": 10, "bfloat16": 9}},
            ["bfloat16 is slower than float32 here: set model.dtype=float32"],
        ),
        ({"threads": 1}, ["torch uses 1 of 4 cores: unset OMP_NUM_THREADS or set devices.threads"]),
        (
            {"cores_of_others": 1.25},
            ["other programs use 1.2 of 4 cores: runs yield to them and take longer; end them, or wait"],
        ),
        ({"cores_of_others": None}, []),
        ({"disk_free_gb": 4.9}, ["less than 5 GB of disk space is free: checkpoints may not fit"]),
    ],
)
def test_advice_follows_from_the_facts(
    changed: dict[str, Any], advice: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    assert doctor._advice(FACTS | changed) == advice


def test_the_facts_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MEASURED_SECONDS", 0.01)
    monkeypatch.setattr(doctor, "MATRIX_SIZE", 64)
    measure = other_programs.measure_cores_of_others
    monkeypatch.setattr(other_programs, "measure_cores_of_others", lambda: measure(0.01))
    facts = doctor.doctor()
    assert facts["versions"]["torch"] == torch.__version__
    assert 1 <= facts["cores"] <= (os.cpu_count() or 1)
    assert facts["threads"] == torch.get_num_threads()
    assert facts["memory_gb"] > 0.2
    assert facts["disk_free_gb"] > 0
    assert set(facts["gflops"]) == {"float32", "bfloat16"}
    assert isinstance(facts["advice"], list)


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert doctor._version("torch") == torch.__version__
    assert doctor._version("no-such-package-of-anyone") is None


def test_the_speed_of_an_emulated_dtype_is_measured_with_smaller_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of large matrices would take seconds."""
    sizes: list[int] = []
    clock = itertools.count()

    def product(matrix: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        sizes.append(len(matrix))
        return matrix

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: next(clock) * doctor.MEASURED_SECONDS / 2)
    assert doctor._measure_gflops(torch.float32) > 0
    assert set(sizes) == {doctor.FIRST_MATRIX_SIZE}, "one of them takes long already"
    sizes.clear()
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: next(clock) * doctor.MEASURED_SECONDS / 100)
    doctor._measure_gflops(torch.float32)
    assert sorted(set(sizes)) == [128, 256, 512, 1024]
    assert sizes.count(1024) > 20
