"""Rows that grow by a token at a time: their scores are those of whole rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bottega.batch import Example, Row
from bottega.models.attention import make_layout
from bottega.models.attention.kv_cache import GROWTH_TOKENS, DecodeLayout, PrefillLayout
from bottega.models.scorer import first_position_id
from bottega.models.scorer_setup import fit_model
from bottega.packing import pack, pad_tree
from making import sharpen, tiny_config

KINDS = ("llama", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "gpt2", "mixtral", "olmo2", "granite", "gpt_oss")


def network_of(kind: str) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(kind), dtype=torch.float32)
    # Mixture-of-experts kernels know no float64.
    dtype = torch.float32 if kind in ("mixtral", "gpt_oss") else torch.float64
    scorer = fit_model(sharpen(model).to(dtype).eval(), "language")
    assert scorer.fit.packed, scorer.fit.reason
    return scorer.network


def scores(network: Any, tokens: torch.Tensor, position: torch.Tensor, layout: Any, read: Any) -> torch.Tensor:
    where = (position + first_position_id(network))[None]
    out = network(input_ids=tokens[None], position_ids=where, layout=layout, use_cache=False, logits_to_keep=read)
    return out.logits[0]


def example(ids: list[int]) -> Example:
    at, one = np.array([len(ids) - 1]), np.ones(1, np.float32)
    return Example("", (Row(np.array(ids), at, np.zeros(1, np.int64), one),))


def of_whole_rows(network: Any, rows: list[list[int]]) -> torch.Tensor:
    batch = pack([example(row) for row in rows], share=False)
    return scores(network, batch.tokens, batch.position, make_layout(batch), batch.at)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scores_are_those_of_whole_rows(kind: str) -> None:
    """With prompts that are prefixes of others, several rows per prompt, finished rows, and more tokens than room."""
    network = network_of(kind)
    draw = np.random.default_rng(0)
    start = draw.integers(5, 250, 12).tolist()
    prompts = [start, [*start, *draw.integers(5, 250, 9).tolist()], [7], [*start, 8, 9]]
    of = [0, 0, 0, 1, 2, 2, 3]
    batch = pack([example(prompt) for prompt in prompts])
    whole, prefill = pad_tree(batch), PrefillLayout(make_layout(pad_tree(batch)))
    first = scores(network, whole.tokens, whole.position, prefill, batch.at)
    close(first, of_whole_rows(network, prompts))
    layout = DecodeLayout(batch, prefill, of)
    rows = [list(prompts[place]) for place in of]
    for step in range(GROWTH_TOKENS + 6):
        if step in (2, 5, GROWTH_TOKENS + 2):
            left = {2: [0, 2, 3, 4, 5, 6], 5: [1, 3, 5], GROWTH_TOKENS + 2: [2]}[step]
            layout.keep_rows(left)
            rows = [rows[place] for place in left]
        new = torch.from_numpy(draw.integers(5, 250, len(rows)))
        rows = [[*row, int(token)] for row, token in zip(rows, new, strict=True)]
        layout.begin_token()
        for _ in range(2):  # a token may be computed again
            layout.begin_forward()
            found = scores(network, new, layout.position, layout, 0)
        if step < 8 or step > GROWTH_TOKENS - 3:  # a whole row is long to compute
            close(found, of_whole_rows(network, rows))


@torch.no_grad()
def test_a_prompt_with_most_of_the_rows_costs_no_more_than_they_do() -> None:
    network = network_of("llama")
    draw = np.random.default_rng(0)
    prompts = [draw.integers(5, 250, 9).tolist() for _ in range(12)]
    of = [0] * 30 + list(range(1, 12))
    batch = pack([example(prompt) for prompt in prompts])
    whole, prefill = pad_tree(batch), PrefillLayout(make_layout(pad_tree(batch)))
    scores(network, whole.tokens, whole.position, prefill, batch.at)
    layout = DecodeLayout(batch, prefill, of)
    assert len(layout.lengths) * layout.most <= 2 * len(of)
    rows = [list(prompts[place]) for place in of]
    for left in (None, [0, 1, *range(5, 30), 33, 40], None):
        if left is not None:
            layout.keep_rows(left)
            rows = [rows[place] for place in left]
        new = torch.from_numpy(draw.integers(5, 250, len(rows)))
        rows = [[*row, int(token)] for row, token in zip(rows, new, strict=True)]
        layout.begin_token()
        layout.begin_forward()
        close(scores(network, new, layout.position, layout, 0), of_whole_rows(network, rows))


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    tolerance = 2e-4 if one.dtype == torch.float32 else 2e-6
    assert (one - other).abs().max() <= tolerance * other.abs().max()
