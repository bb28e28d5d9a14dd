"""The device to compute on, and the dtypes its hardware multiplies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bottega.errors import RunError
from bottega.hardware.device import available_device, compute_dtype, has_native_dtype, resolve_device


@pytest.mark.parametrize(
    ("said", "bfloat16", "float16"),
    [
        ({"avx2": True}, False, False),
        ({"avx512_f": True, "avx512_bf16": True}, True, False),
        ({"avx512_bf16": True, "amx_bf16": True, "amx_fp16": True}, True, True),
        ({"avx512_bf16": False, "amx_fp16": False}, False, False),
    ],
)
def test_a_processor_is_asked(
    said: dict[str, bool], bfloat16: bool, float16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: said)
    assert has_native_dtype(torch.bfloat16, "cpu") is bfloat16
    assert has_native_dtype(torch.float16, "cpu") is float16
    assert has_native_dtype(torch.float32, "cpu")
    assert compute_dtype("auto", "cpu") == (torch.bfloat16 if bfloat16 else torch.float32)
    assert compute_dtype("float16", "cpu") == torch.float16


@pytest.mark.parametrize("major", [7, 9])
def test_a_card_that_imitates_bfloat16_computes_in_float16(major: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says of a T4 that it knows bfloat16, as long as it is not asked to leave imitations out."""

    def supported(including_emulation: bool = True) -> Any:
        return including_emulation or major >= 8

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert compute_dtype("auto", "cuda") == (torch.bfloat16 if major >= 8 else torch.float16)


@pytest.mark.parametrize(
    ("wanted", "present", "device", "available"),
    [
        ("auto", True, "cuda", "cuda"),
        ("auto", False, "cpu", "cpu"),
        ("cpu", True, "cpu", "cpu"),
        ("cuda", True, "cuda", "cuda"),
        ("cuda", False, None, "cpu"),
    ],
)
def test_the_device_to_compute_on(
    monkeypatch: pytest.MonkeyPatch, wanted: str, present: bool, device: str | None, available: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert available_device(wanted) == available
    if device is None:
        with pytest.raises(RunError, match="no CUDA device"):
            resolve_device(wanted)
    else:
        assert resolve_device(wanted) == device
