"""The proof that a packed row gets the scores it gets alone, on load, on a small copy of the model in float32.

A model that ignores the interval mask (recurrent, ALiBi, relative positions) does so silently, so the proof is made for
every model: a copy is built from its config (`models.small_copy`), with every number of tokens in it shorter than the
rows, and mixed rows with a shared prefix are computed packed and one by one. If they differ, or if no copy can be
built, the model runs one row per forward: slower and right.
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

# Largest relative difference that counts as rounding; with sharp weights a wrong mask gives more than 1e-2.
TOLERANCE = 1e-4

# Tokens of the rows of the proof.
ROW_LENGTHS = (9, 23, 14, 6, 17)

# Tokens that two of the rows share.
PREFIX_LENGTH = 9

# Every window, chunk and budget of the small copy: shorter than the rows, so that one that is ignored shows.
SMALL_WINDOW = 6


def prove_packing(model_class: type, config: Any, head: HeadKind, both_ways: bool) -> Fit:
    """How a model of this class and config can be computed exactly; a model that cannot be packed raises no error.

    Raises ModelError for a causal language model that sees the tokens it has to predict.
    """
    # Forked, so that the proof draws nothing from the run's generator.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            model, unknown, expected = _small_copy_and_scores(model_class, config, head, both_ways)
        except Exception as error:  # a config that cannot be shrunk says nothing about packing
            return Fit(
                packed=False, own_head=True, reason=f"no small copy could be built to prove packing on ({error})"
            )
        if heads.load(head).autoregressive and not model.config.is_encoder_decoder:
            refuse_lookahead(model)
        packed, alone = _packed_and_separate(model, head, both_ways)
        own_head = _difference(lambda: _scores(Scorer(model, head, Fit(packed=False)), alone), expected)
        trial = Fit(own_head=bool(own_head))
        unpackable = unknown or _difference(
            lambda: _scores(_with_packed_attention(model, head, trial), packed), expected
        )
        fused = _verify_kernels(model, head, trial, packed, expected) if not unpackable else prove_kernels(model)
    if unpackable or (own_head and model.config.is_encoder_decoder):
        return Fit(packed=False, own_head=bool(own_head), reason=unpackable or own_head, fused=fused)
    reason = own_head and f"its head computes more than a linear layer: {own_head}"
    return Fit(packed=True, own_head=bool(own_head), reason=reason, fused=fused)


def refuse_lookahead(model: Any) -> None:
    """Raise a ModelError if later tokens change the scores of earlier ones."""
    ids = torch.arange(2, 2 + max(ROW_LENGTHS))[None] % int(model.config.get_text_config().vocab_size)
    changed = ids.clone()
    changed[0, -4:] = ids[0, :4]
    state = RowState(model)
    with torch.no_grad():
        # Compared before the four changed tokens alone.
        scores = [model(input_ids=x, use_cache=False).logits[0, : ids.shape[1] - 4] for x in (ids, changed)]
    state.restore()
    if float((scores[0] - scores[1]).abs().max()) > TOLERANCE * float(scores[0].abs().max()):
        raise ModelError(
            f"{model.config.model_type} as configured sees the token it has to predict",
            where="model",
            fix="if its config has is_decoder or causal, set it to true; "
            f"else train it with {heads.objectives_of_other_heads('language')}",
        )


def _verify_kernels(model: Any, head: HeadKind, fit: Fit, packed: Batch, expected: torch.Tensor) -> tuple[str, ...]:
    """The classes with a proved fused forward; none if all of them together change the scores."""
    fused = prove_kernels(model)
    apply_kernels(model, fused)
    return () if _difference(lambda: _scores(Scorer(model, head, fit), packed), expected) else fused


def _small_copy_and_scores(
    model_class: type, config: Any, head: HeadKind, both_ways: bool
) -> tuple[Any, str, torch.Tensor]:
    """(a small model, a reason if a part of it could not be made small, its own scores for each row alone)."""
    errors: list[Exception] = []
    for model, unknown in small_copies(model_class, config, SMALL_WINDOW, max(ROW_LENGTHS)):
        try:
            _, alone = _packed_and_separate(model, head, both_ways)
            scores = _scores(Scorer(model, head, Fit(packed=False, own_head=True)), alone)
        except Exception as error:
            errors.append(error)
        else:
            reason = f"what it does beyond {', '.join(unknown)} could not be tried" if unknown else ""
            return model, reason, scores
    raise errors[0]


def _packed_and_separate(model: Any, head: HeadKind, both_ways: bool) -> tuple[Batch, Batch]:
    """The same rows (packed with a shared prefix, one by one)."""
    text = model.config.get_text_config()
    examples = _examples(int(text.vocab_size), getattr(text, "pad_token_id", None), head, both_ways)
    if model.config.is_encoder_decoder:
        examples = [
            Example(example.id, (_with_source(example.rows[0], index),)) for index, example in enumerate(examples)
        ]
    return pack(examples, min_shared=2), pack(examples, share=False)


def _with_packed_attention(model: Any, head: HeadKind, fit: Fit) -> Scorer:
    register_attention()
    add_layout_hooks(model)
    if model.config.is_encoder_decoder:
        prepare_encoder_decoder(model)
    model.set_attn_implementation(ATTENTION_NAME)
    return Scorer(model, head, fit)


def _examples(vocabulary: int, padding: int | None, head: HeadKind, both_ways: bool) -> list[Example]:
    """Rows of mixed length, two of which share a prefix."""
    # None has the padding token: a classifier of transformers skips it when it looks for the last token.
    generator = np.random.default_rng(0)
    random_rows = [generator.integers(0, vocabulary - 1, length) for length in ROW_LENGTHS]
    tokens = [np.where(row == padding, vocabulary - 1, row) for row in random_rows]
    tokens[2] = np.concatenate([tokens[1][:PREFIX_LENGTH], tokens[2]])
    return [Example(str(index), (_row(row, head, both_ways),)) for index, row in enumerate(tokens)]


def _with_source(row: Row, index: int) -> Row:
    """The row with a source for the encoder, of another length; for the first two the same token, four times."""
    return replace(row, source=np.roll(row.tokens, 3)[: 3 + 2 * index] if index > 1 else row.tokens[:1].repeat(4))


def _row(tokens: np.ndarray, head: HeadKind, both_ways: bool) -> Row:
    if heads.load(head).autoregressive:
        return Row(tokens, np.arange(len(tokens) - 1), tokens[1:], np.ones(len(tokens) - 1, np.float32), both_ways)
    at = np.arange(len(tokens)) if not heads.load(head).per_row else np.array([0 if both_ways else len(tokens) - 1])
    return Row(tokens, at, tokens[at], np.ones(len(at), np.float32), both_ways)


def _scores(scorer: Scorer, batch: Batch) -> torch.Tensor:
    """The scores of a batch; the model's row state is reset before and after."""
    output = scorer.head.probe_output
    with torch.no_grad():
        scorer.reset_row_state()
        scores: torch.Tensor = scorer(batch, frozenset({output}))[output]
        scorer.reset_row_state()
    return scores


def _difference(compute: Any, expected: torch.Tensor) -> str:
    """How computed scores differ from the expected ones, in words; empty if they do not."""
    try:
        scores = compute()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    gap = float((scores - expected).abs().max() / expected.abs().max())
    return "" if gap <= TOLERANCE else f"scores differ by {gap:.1e} relative to the largest"
