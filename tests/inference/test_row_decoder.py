"""Rows of models that compute one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bottega.inference.language_model import load_language_model
from bottega.inference.row_decoder import DecodedRow, SerialDecoder
from making import make_model


@pytest.mark.parametrize("kind", ["bloom", "llama"])
def test_logits_of_a_prompt_and_of_what_follows(kind: str, tmp_path: Path) -> None:
    """One row has room; it begins again from its tokens when it joins again."""
    writer = load_language_model(make_model(tmp_path, kind), dtype="float32").writer
    before = writer.network.config._attn_implementation
    decoder, row = SerialDecoder(writer), DecodedRow([7, 8, 9], all_logits=True)
    assert decoder.has_room(row)
    decoder.join(row)
    assert not decoder.has_room(DecodedRow([5]))
    step = decoder.step()
    ((scored, prompt_logits),) = step.prompts
    assert scored is row
    assert prompt_logits.shape == (3, 300)
    torch.testing.assert_close(prompt_logits[-1:], step.logits, rtol=0, atol=1e-4)
    row.tokens.append(20)
    row.all_logits = False
    later = decoder.step().logits
    decoder.leave(row)
    decoder.join(row)
    torch.testing.assert_close(decoder.step().logits, later, rtol=0, atol=1e-4)
    decoder.close()
    assert writer.network.config._attn_implementation == before
