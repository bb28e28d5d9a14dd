"""The device to compute on, and the dtypes its hardware multiplies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bottega.errors import RunError
from bottega.hardware.device import available_device, compute_dtype, has_native_dtype, resolve_device


@pytest.mark.parametrize(
    ("capabilities", "bfloat16", "float16"),
    [
        ({"avx2": True}, False, False),
        ({"avx512_f": True, "avx512_bf16": True}, True, False),
        ({"avx512_bf16": True, "amx_bf16": True, "amx_fp16": True}, True, True),
        ({"avx512_bf16": False, "amx_fp16": False}, False, False),
    ],
)
def test_native_dtypes_follow_the_processors_capabilities(
    capabilities: dict[str, bool], bfloat16: bool, float16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_native_dtype(torch.bfloat16, "cpu") is bfloat16
    assert has_native_dtype(torch.float16, "cpu") is float16
    assert has_native_dtype(torch.float32, "cpu")
    assert compute_dtype("auto", "cpu") == (torch.bfloat16 if bfloat16 else torch.float32)
    assert compute_dtype("float16", "cpu") == torch.float16


@pytest.mark.parametrize("major", [7, 9])
def test_a_gpu_that_emulates_bfloat16_computes_in_float16(major: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch reports bfloat16 for a T4, unless emulation is excluded."""

    def supported(including_emulation: bool = True) -> Any:
        return including_emulation or major >= 8

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert compute_dtype("auto", "cuda") == (torch.bfloat16 if major >= 8 else torch.float16)


@pytest.mark.parametrize(
    ("requested", "present", "device", "available"),
    [
        ("auto", True, "cuda", "cuda"),
        ("auto", False, "cpu", "cpu"),
        ("cpu", True, "cpu", "cpu"),
        ("cuda", True, "cuda", "cuda"),
        ("cuda", False, None, "cpu"),
    ],
)
def test_the_device_to_compute_on(
    monkeypatch: pytest.MonkeyPatch, requested: str, present: bool, device: str | None, available: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert available_device(requested) == available
    if device is None:
        with pytest.raises(RunError, match="no CUDA device"):
            resolve_device(requested)
    else:
        assert resolve_device(requested) == device
