"""LoRA adapters of ONNX Runtime: places in the graph that are zero unless an adapter is in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import bottega
from bottega.errors import ModelError
from bottega.exporting._onnx_lora import PlaceForLora, filled
from bottega.inference.runtimes import open_runtime
from bottega.models.low_rank import LowRankUpdate
from making import make_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_a_place_adds_what_the_adapter_adds() -> None:
    rng = np.random.default_rng(0)
    update = LowRankUpdate(*(rng.normal(size=size).astype(np.float32) for size in ((2, 6), (5, 2))), transposed=False)
    a, b = filled(update, 4)
    assert (a.shape, b.shape) == ((6, 4), (4, 5))
    layer = torch.nn.Linear(6, 5)
    place, x = PlaceForLora(layer, 6, 5, 4), torch.randn(3, 6)
    torch.testing.assert_close(place(x), layer(x))
    place.a.data, place.b.data = torch.from_numpy(a), torch.from_numpy(b)
    torch.testing.assert_close(place(x), layer(x) + x @ torch.from_numpy(update.b @ update.a).T)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "targets"), [("gpt2", ("c_attn", "c_fc")), ("gemma3_text", ("q_proj", "up_proj"))])
def test_families_that_have_no_other_graph(
    kind: str, targets: tuple[str, ...], two_adapters: Callable[..., list[Path]], tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base", kind)
    result = bottega.export(base, tmp_path / "out", format="onnx", adapters=two_adapters(base, targets))
    for comparison in result.adapters.values():
        assert comparison.proof is not None
        assert comparison.proof.greedy == comparison.proof.generated > 0


@pytest.mark.slow
def test_a_base_in_4_bits(two_adapters: Callable[..., list[Path]], llama: Path, tmp_path: Path) -> None:
    """Without an adapter it computes what it does alone."""
    runs = two_adapters(llama)
    bottega.export(llama, tmp_path / "out", format="onnx", precision="int4", adapters=runs, rows=0)
    bottega.export(llama, tmp_path / "alone", format="onnx", precision="int4", rows=0)
    tokens = np.arange(5, 40)
    with_places, alone = (open_runtime("onnx", tmp_path / name, "language").logits(tokens) for name in ("out", "alone"))
    np.testing.assert_allclose(with_places, alone, rtol=0, atol=1e-4)


def test_an_encoder_decoder_is_refused(two_adapters: Callable[..., list[Path]], tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "t5")
    with pytest.raises(ModelError, match="only decoders that generate text"):
        bottega.export(base, tmp_path / "out", format="onnx", adapters=two_adapters(base, ("q", "v")))
