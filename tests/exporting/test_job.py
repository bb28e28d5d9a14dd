"""What is written in 4 bits is proved in float32 first, where no rounding hides a fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bottega
from bottega import exporting
from bottega.errors import ModelError
from bottega.exporting._job import IN_FLOAT32
from bottega.runs.atomic_files import verify_folder

ROUGH = '''
from typing import ClassVar

import torch

from bottega.exporting import ExportFormat


class Rough(ExportFormat):
    """A folder whose weights are rounded to 4 bits of their mantissa, and lose a layer where asked to."""

    title: ClassVar[str] = "rough folder"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int4")
    lost: ClassVar[bool] = False

    def write(self, model, folder, precision):
        network = model.merged(torch.float32)
        if self.lost:
            network.model.layers[1].self_attn.o_proj.weight.data.zero_()
        if precision == "int4":
            for weight in network.parameters():
                scale = 2 ** (weight.abs().max().log2().ceil() - 7)
                weight.data = (weight / scale).round() * scale
        network.save_pretrained(folder)
        model.write_settings(network, folder)
'''


def test_the_same_files_in_float32_are_proved_first(llama: Path, tmp_path: Path, plug_in: Callable[..., Any]) -> None:
    plug_in(exporting, "rough", ROUGH)
    result = bottega.export(llama, tmp_path / "out", format="rough", precision="int4")
    assert result.proof is not None
    assert result.proof.difference > 1e-3
    assert result.comparison.in_float32 is not None
    assert result.comparison.in_float32 < 1e-4
    assert not list(tmp_path.rglob(IN_FLOAT32))
    assert verify_folder(tmp_path / "out") == ""
    assert f"in float32 | {result.comparison.in_float32:.1e} |" in (tmp_path / "out" / "README.md").read_text()
    assert bottega.export(llama, tmp_path / "whole", format="rough").comparison.in_float32 is None


def test_a_fault_that_rounding_would_hide(
    llama: Path, tmp_path: Path, plug_in: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(exporting, "rough", ROUGH)
    monkeypatch.setattr(type(exporting.load("rough")), "lost", True)
    with pytest.raises(ModelError, match=r"a logit by .* rounding is at most 0\.001"):
        bottega.export(llama, tmp_path / "out", format="rough", precision="int4")
    assert list(tmp_path.iterdir()) == []
    assert torch.is_grad_enabled()
