"""Is "packed = alone" true of this model? Proved on load, on a small copy, in float32.

A model that ignores the interval mask (recurrent, ALiBi, relative positions) does so silently, so the question is
asked of every model class: a copy is built from its own config (`models.small`), every number of tokens in it below the
length of the rows, and mixed rows with a shared prefix are computed packed and one by one. What is not equal is not
used, nor what could not be asked: the model then runs one row a forward, slower and right.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bottega.batch import Batch, Example, Row
from bottega.errors import ModelError
from bottega.models import heads
from bottega.models.attention import ATTENTION_NAME, add_layout_hooks, register_attention
from bottega.models.encoder_decoder import prepare_encoder_decoder
from bottega.models.kernels import apply_kernels, prove_kernels
from bottega.models.row_state import RowState
from bottega.models.scorer import Fit, Scorer
from bottega.models.small_copy import small_copies
from bottega.objectives import HeadKind
from bottega.packing import pack

TOLERANCE = 1e-4
"""Largest relative difference taken for rounding; a wrong mask gives more than 1e-2 on sharp weights."""

ROW_LENGTHS = (9, 23, 14, 6, 17)
"""Tokens of its rows."""

PREFIX_LENGTH = 9
"""Tokens that two of them share."""

SMALL_WINDOW = 6
"""What every window, chunk and budget of the small copy becomes."""


def prove_packing(model_class: type, config: Any, head: HeadKind, both_ways: bool) -> Fit:
    """How a model of this class and config may be computed; never raises for a model that cannot be packed.

    A ModelError for one that sees what it would have to write.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            model, unknown, apart = _small_copy_and_scores(model_class, config, head, both_ways)
        except Exception as error:  # a config this code cannot shrink says nothing about packing
            return Fit(packed=False, own_head=True, reason=f"no small copy could be built to prove it on ({error})")
        if head == "language" and not model.config.is_encoder_decoder:
            refuse_lookahead(model)
        packed, alone = _packed_and_separate(model, head, both_ways)
        own_head = _difference(lambda: _scores(Scorer(model, head, Fit(packed=False)), alone), apart)
        trial = Fit(own_head=bool(own_head))
        mixed = unknown or _difference(lambda: _scores(_with_packed_attention(model, head, trial), packed), apart)
        fused = _verify_kernels(model, head, trial, packed, apart) if not mixed else prove_kernels(model)
    if mixed or (own_head and model.config.is_encoder_decoder):
        return Fit(packed=False, own_head=bool(own_head), reason=mixed or own_head, fused=fused)
    reason = own_head and f"its head is its own: {own_head}"
    return Fit(packed=True, own_head=bool(own_head), reason=reason, fused=fused)


def refuse_lookahead(model: Any) -> None:
    """A ModelError where what stands behind a token changes the scores of what comes next."""
    one = torch.arange(2, 2 + max(ROW_LENGTHS))[None] % int(model.config.get_text_config().vocab_size)
    other = one.clone()
    other[0, -4:] = one[0, :4]
    state = RowState(model)
    with torch.no_grad():
        scores = [model(input_ids=ids, use_cache=False).logits[0, : one.shape[1] - 4] for ids in (one, other)]
    state.restore()
    if float((scores[0] - scores[1]).abs().max()) > TOLERANCE * float(scores[0].abs().max()):
        raise ModelError(
            f"{model.config.model_type} as it is configured sees the token it would have to write",
            where="model",
            fix="if its config has is_decoder or causal, set it to true; else train it with masked, classify or tag",
        )


def _verify_kernels(model: Any, head: HeadKind, fit: Fit, packed: Batch, apart: torch.Tensor) -> tuple[str, ...]:
    """The classes with a faster forward, if they give the same scores all together."""
    fused = prove_kernels(model)
    apply_kernels(model, fused)
    return () if _difference(lambda: _scores(Scorer(model, head, fit), packed), apart) else fused


def _small_copy_and_scores(
    model_class: type, config: Any, head: HeadKind, both_ways: bool
) -> tuple[Any, str, torch.Tensor]:
    """(a small model, what of it could not be made small, its scores for each row alone by its own forward only)."""
    errors: list[Exception] = []
    for model, unknown in small_copies(model_class, config, SMALL_WINDOW, max(ROW_LENGTHS)):
        try:
            _, alone = _packed_and_separate(model, head, both_ways)
            scores = _scores(Scorer(model, head, Fit(packed=False, own_head=True)), alone)
        except Exception as error:
            errors.append(error)
        else:
            left = f"what it does beyond {', '.join(unknown)} could not be tried" if unknown else ""
            return model, left, scores
    raise errors[0]


def _packed_and_separate(model: Any, head: HeadKind, both_ways: bool) -> tuple[Batch, Batch]:
    text = model.config.get_text_config()
    examples = _examples(int(text.vocab_size), getattr(text, "pad_token_id", None), head, both_ways)
    if model.config.is_encoder_decoder:
        examples = [Example(one.id, (_with_source(one.rows[0], place),)) for place, one in enumerate(examples)]
    return pack(examples, min_shared=2), pack(examples, share=False)


def _with_packed_attention(model: Any, head: HeadKind, fit: Fit) -> Scorer:
    register_attention()
    add_layout_hooks(model)
    if model.config.is_encoder_decoder:
        prepare_encoder_decoder(model)
    model.set_attn_implementation(ATTENTION_NAME)
    return Scorer(model, head, fit)


def _examples(vocabulary: int, padding: int | None, head: HeadKind, both_ways: bool) -> list[Example]:
    """Rows of mixed length, two of which share a prefix, none with the padding token (plain classifiers skip it)."""
    generator = np.random.default_rng(0)
    drawn = [generator.integers(0, vocabulary - 1, length) for length in ROW_LENGTHS]
    tokens = [np.where(row == padding, vocabulary - 1, row) for row in drawn]
    tokens[2] = np.concatenate([tokens[1][:PREFIX_LENGTH], tokens[2]])
    return [Example(str(index), (_row(row, head, both_ways),)) for index, row in enumerate(tokens)]


def _with_source(row: Row, place: int) -> Row:
    """The row behind a source of another length; the first two have one source."""
    return replace(row, source=np.roll(row.tokens, 3)[: 3 + 2 * place] if place > 1 else row.tokens[:1].repeat(4))


def _row(tokens: np.ndarray, head: HeadKind, both_ways: bool) -> Row:
    if head == "language":
        return Row(tokens, np.arange(len(tokens) - 1), tokens[1:], np.ones(len(tokens) - 1, np.float32), both_ways)
    at = np.arange(len(tokens)) if not heads.load(head).per_row else np.array([0 if both_ways else len(tokens) - 1])
    return Row(tokens, at, tokens[at], np.ones(len(at), np.float32), both_ways)


def _scores(scorer: Scorer, batch: Batch) -> torch.Tensor:
    """What a scorer makes of the batch; the next scorer of its model finds it as fresh as this one."""
    output = scorer.head.probe_output
    with torch.no_grad():
        scorer.reset_row_state()
        scores: torch.Tensor = scorer(batch, frozenset({output}))[output]
        scorer.reset_row_state()
    return scores


def _difference(compute: Any, truth: torch.Tensor) -> str:
    """Why the computation is not the truth; empty when it is."""
    try:
        scores = compute()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    gap = float((scores - truth).abs().max() / truth.abs().max())
    return "" if gap <= TOLERANCE else f"scores differ by {gap:.1e} of their size"
