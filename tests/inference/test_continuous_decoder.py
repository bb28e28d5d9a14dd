"""What a forward computes: tokens of rows that are decoded, and parts of prompts. Its results: `test_scheduler`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bottega.inference.continuous_decoder import MIN_PREFIX, ContinuousDecoder
from bottega.inference.generator import Writer
from bottega.inference.language_model import load_language_model
from bottega.inference.row_decoder import DecodedRow, DecoderStep
from making import make_model


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    return load_language_model(make_model(tmp_path_factory.mktemp("llama")), dtype="float32").writer


def test_a_prompt_that_is_read_does_not_hold_up_others(writer: Writer) -> None:
    """The row that is decoded gets a token with every chunk."""
    decoder = ContinuousDecoder(writer.network, chunk=32)
    short, long = DecodedRow([7, 8]), DecodedRow(list(range(5, 290)))
    decoder.join(short)
    step = decoder.step()
    assert step.rows == [short]
    decoder.join(long)
    seen = []
    while long not in step.rows:
        short.tokens.append(int(step.logits[0].argmax()))
        step = decoder.step()
        seen.append(step.rows[0])
    assert seen == [short] * -(-len(long.tokens) // 32)


def test_a_long_prompt_and_short_ones_share_the_reading(writer: Writer) -> None:
    """The oldest gets half of every forward, so both it and those behind it go on."""
    decoder = ContinuousDecoder(writer.network, chunk=32)
    decoder.join(DecodedRow([7]))
    decoder.step()
    decoder.read[0].row.tokens.append(8)
    long, short = DecodedRow(list(range(5, 290))), DecodedRow(list(range(100, 116)))
    decoder.join(long)
    decoder.join(short)
    assert short in decoder.step().rows


def advance(step: DecoderStep) -> None:
    """Give every row its likeliest token."""
    for row, logits in zip(step.rows, step.logits, strict=True):
        row.tokens.append(int(logits.argmax()))


def test_a_beginning_in_common_is_read_once_and_stored_once(writer: Writer) -> None:
    """Others wait for it, and share it while they are decoded."""
    decoder = ContinuousDecoder(writer.network)
    shared = list(range(5, 5 + MIN_PREFIX + 6))
    rows = [DecodedRow([*shared, 200 + number, 7]) for number in range(3)]
    for row in rows:
        decoder.join(row)
    step = decoder.step()
    assert step.rows == rows[:1]
    advance(step)
    step = decoder.step()
    assert step.rows == rows
    advance(step)
    decoder.step()
    assert decoder.cached_tokens == 2 * len(shared)
    (prefix,) = decoder.cache.prefixes
    assert list(prefix.tokens) == shared
    assert [cached.prefix for cached in decoder.decoded.values()] == [prefix] * 3
    for row in rows:
        decoder.leave(row)
    assert decoder.cache.tokens == 0
    # The next turn of a conversation begins with all that was computed.
    before = decoder.cached_tokens
    decoder.join(DecodedRow([*rows[0].tokens, 9]))
    decoder.step()
    assert decoder.cached_tokens - before >= len(rows[0].tokens) - 1


def test_memory_is_counted_and_old_texts_make_room(writer: Writer) -> None:
    decoder = ContinuousDecoder(writer.network, max_rows=2, max_tokens=1200)
    one, two = DecodedRow(list(range(5, 100))), DecodedRow(list(range(100, 200)))
    for row in (one, two):
        assert decoder.has_room(row)
        decoder.join(row)
        advance(decoder.step())
    assert not decoder.has_room(DecodedRow([7]))  # two rows are most
    advance(decoder.step())
    assert decoder.is_overfull  # a bank for each of up to 128 tokens has 2,048
    decoder.leave(two)
    assert not decoder.is_overfull
    assert decoder.prefixes.tokens + decoder.cache.tokens <= 2048


@pytest.mark.parametrize("kind", ["llama", "mistral", "granite", "smollm3", "qwen3", "gemma2", "phi3", "gpt2"])
def test_logits_in_bfloat16(kind: str, tmp_path: Path) -> None:
    """Those of whole rows in float32, as exactly as bfloat16 is, of prompts and of decoded rows alike."""
    folder = make_model(tmp_path / kind, kind)
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    decoder = ContinuousDecoder(load_language_model(folder, dtype="bfloat16").writer.network, chunk=16)
    rows = [DecodedRow([5 + (7 * place + index) % 90 for place in range(3 + 11 * index)]) for index in range(4)]
    for row in rows:
        decoder.join(row)
    for _ in range(8):
        step = decoder.step()
        for row, logits in zip(step.rows, step.logits, strict=True):
            with torch.inference_mode():
                expected = exact(input_ids=torch.tensor([row.tokens])).logits[0, -1]
            torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.1 * float(expected.abs().max()))
        advance(step)
    assert all(len(row.tokens) > 6 for row in rows)
