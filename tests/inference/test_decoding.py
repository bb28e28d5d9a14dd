"""Which way a model decodes, and that each gives the logits of the whole text computed at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from bottega.inference.decoding import (
    EncoderDecoderDecoding,
    NativeDecoding,
    PackedDecoding,
    RuntimeDecoding,
    UncachedDecoding,
    choose_decoding,
)
from bottega.inference.runtimes._network import RuntimeNetwork
from bottega.inference.runtimes.transformers import TransformersRuntime
from bottega.models import native
from bottega.models.config import load_stored_config
from bottega.models.generation_config import load_generation_config
from bottega.models.row_state import RowState
from bottega.models.scorer_setup import load_scorer
from making import make_model

PROMPTS = [(5, 6, 7), (8, 9), (5, 6, 7)]


@pytest.fixture(scope="module")
def plain(llama: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(llama).eval()


def whole(network: torch.nn.Module, tokens: list[int]) -> Tensor:
    with torch.no_grad():
        return network(torch.tensor([tokens])).logits[0, -1]


def test_packed_rows(llama: Path, plain: torch.nn.Module) -> None:
    network = load_scorer(str(llama), "float32", "cpu").network
    assert choose_decoding(network, packed=True) is PackedDecoding
    with torch.no_grad(), PackedDecoding.set_attention(network):
        decoding = PackedDecoding(network, PROMPTS, RowState(network).restore)
        first = decoding.start()
        # The second row has ended.
        second = decoding.step(torch.tensor([20, 21]), [0, 2])
    for row, prompt in zip(first, PROMPTS, strict=True):
        torch.testing.assert_close(row, whole(plain, list(prompt)), rtol=0, atol=1e-4)
    for row, tokens in zip(second, ([5, 6, 7, 20], [5, 6, 7, 21]), strict=True):
        torch.testing.assert_close(row, whole(plain, tokens), rtol=0, atol=1e-4)


@pytest.mark.skipif(native.operators() is None, reason="the operators in C++ are not built")
def test_packed_rows_in_cpp(tmp_path: Path) -> None:
    """Rows that share a prompt, leave one after the other, and outgrow their first memory."""
    folder = make_model(tmp_path / "wide", hidden_size=128, head_dim=32)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    network = load_scorer(str(folder), "float32", "cpu", native=True).network
    assert choose_decoding(network, packed=True) is NativeDecoding
    rows = [[*PROMPTS[0]], [*PROMPTS[1]], [*PROMPTS[2]], [7] * 61]
    with torch.inference_mode():
        decoding = NativeDecoding(network, [tuple(row) for row in rows], RowState(network).restore)
        logits, live = decoding.start(), list(range(4))
        for step in range(12):
            for row, found in zip(live, logits, strict=True):
                torch.testing.assert_close(found, whole(plain, rows[row]), rtol=0, atol=1e-4)
            kept = [index for index, row in enumerate(live) if (step, row) not in ((2, 1), (5, 0))]
            live = [live[index] for index in kept]
            for row in live:
                rows[row].append(10 + 3 * row + step)
            logits = decoding.step(torch.tensor([rows[row][-1] for row in live]), kept)
    assert live == [2, 3]


@pytest.mark.parametrize("way", [UncachedDecoding, RuntimeDecoding])
def test_one_row_at_a_time(way: type, llama: Path, plain: torch.nn.Module) -> None:
    network = plain
    if way is RuntimeDecoding:
        runtime = TransformersRuntime(llama, "language")
        network = RuntimeNetwork(runtime, load_stored_config(str(llama)), load_generation_config(llama))
    assert choose_decoding(network, packed=False) is way
    assert not way.many
    with torch.no_grad(), way.set_attention(network):
        decoding = way(network, PROMPTS[:1], RowState(network).restore)
        torch.testing.assert_close(decoding.start()[0], whole(plain, [5, 6, 7]), rtol=0, atol=1e-4)
        stepped = decoding.step(torch.tensor([20]), [0])[0]
    torch.testing.assert_close(stepped, whole(plain, [5, 6, 7, 20]), rtol=0, atol=1e-4)


def test_an_encoder_decoder_has_a_way_of_its_own(tmp_path: Path) -> None:
    network = load_scorer(str(make_model(tmp_path / "t5", "t5")), "float32", "cpu").network
    before = network.config._attn_implementation
    for packed in (True, False):
        assert choose_decoding(network, packed=packed) is EncoderDecoderDecoding
    with EncoderDecoderDecoding.set_attention(network):
        assert network.config._attn_implementation in ("sdpa", "eager")
    assert network.config._attn_implementation == before
