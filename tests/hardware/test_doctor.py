"""What the machine can do, and what is missing."""

from __future__ import annotations

import itertools

import pytest
import torch

from bottega.hardware import doctor


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    assert doctor._missing_extras() == ["no base can be kept in 4 bits (QLoRA): pip install 'bottega[quantize]'"]


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
