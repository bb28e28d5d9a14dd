"""Is "packed = alone" true of this model? Proved on load, on a small copy, in float32.

A model that ignores the interval mask (recurrent, ALiBi, relative positions) does so silently, so the question is
asked of every model class: a copy is built from its own config, shrunk to two layers of each kind, a window of 5 and
sharp random weights, and mixed rows with a shared prefix are computed packed and one by one. What is not equal is
not used: the model then runs one row a forward, slower and right.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from bottega.batch import Batch, Example, Row
from bottega.models.across import prepare
from bottega.models.attention import NAME, register
from bottega.models.fused import fuse, proven
from bottega.models.heads import VOCABULARY
from bottega.models.scorer import Fit, Scorer
from bottega.objectives import HeadKind
from bottega.packing import pack

TOLERANCE = 1e-4
"""Largest relative difference taken for rounding; a wrong mask gives more than 1e-2 on sharp weights."""

LENGTHS = (9, 23, 14, 6, 17)
PREFIX = 9


def probe(model_class: type, config: Any, head: HeadKind, both_ways: bool) -> Fit:
    """How a model of this class and config may be computed; never raises for a model that cannot be packed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            model, apart = _truth(model_class, config, head, both_ways)
        except Exception as error:  # a config this code cannot shrink says nothing about packing
            return Fit(packed=False, own_head=True, reason=f"no small copy could be built to prove it on ({error})")
        packed, alone = _batches(model, head, both_ways)
        own_head = _differs(lambda: _scores(Scorer(model, head, Fit(packed=False)), alone), apart)
        # A class head has its own forward only for one row at a time.
        trial = Fit(own_head=bool(own_head) and head != "class")
        mixed = _differs(lambda: _scores(_set_attention(model, head, trial), packed), apart)
        fused = _working(model, head, trial, packed, apart) if not mixed else proven(model)
    if mixed or (own_head and (head == "class" or model.config.is_encoder_decoder)):
        return Fit(packed=False, own_head=bool(own_head), reason=mixed or own_head, fused=fused)
    reason = own_head and f"its head is its own: {own_head}"
    return Fit(packed=True, own_head=bool(own_head), reason=reason, fused=fused)


def _working(model: Any, head: HeadKind, fit: Fit, packed: Batch, apart: torch.Tensor) -> tuple[str, ...]:
    """The classes with a faster forward, if they give the same scores all together."""
    fused = proven(model)
    fuse(model, fused)
    return () if _differs(lambda: _scores(Scorer(model, head, fit), packed), apart) else fused


def _truth(model_class: type, config: Any, head: HeadKind, both_ways: bool) -> tuple[Any, torch.Tensor]:
    """A small model, and its scores for each row alone by nothing but its own forward."""
    for narrow in (True, False):
        try:
            model = shrunken(model_class, config, narrow)
            _, alone = _batches(model, head, both_ways)
            return model, _scores(Scorer(model, head, Fit(packed=False, own_head=True)), alone)
        except Exception:  # widths may hang together in ways not known here: then cut the depth only
            if not narrow:
                raise
    raise AssertionError


def _batches(model: Any, head: HeadKind, both_ways: bool) -> tuple[Batch, Batch]:
    text = model.config.get_text_config()
    examples = _examples(int(text.vocab_size), getattr(text, "pad_token_id", None), head, both_ways)
    if model.config.is_encoder_decoder:
        examples = [Example(one.id, (_sourced(one.rows[0], place),)) for place, one in enumerate(examples)]
    return pack(examples, share_at_least=2), pack(examples, share=False)


def _set_attention(model: Any, head: HeadKind, fit: Fit) -> Scorer:
    register()
    if model.config.is_encoder_decoder:
        prepare(model)
    model.set_attn_implementation(NAME)
    return Scorer(model, head, fit)


def shrunken(model_class: type, config: Any, narrow: bool = True) -> Any:
    """A model of the same class and kind, a few thousand parameters, evaluation mode, sharp random weights."""
    build = getattr(model_class, "_from_config", model_class)
    model = build(_shrink(config, narrow), dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            # Twice the usual scale, so that attention is far from uniform and a wrong mask shows.
            nn.init.normal_(parameter, std=2 * parameter.shape[-1] ** -0.5)
    return model.eval()


def _shrink(config: Any, narrow: bool) -> Any:
    small = copy.deepcopy(config)
    text = small.get_text_config()
    changes = _shallow(text) | (_narrow(text) if narrow else {})
    for name, value in changes.items():
        with contextlib.suppress(AttributeError):  # some configs derive a value and let nobody set it
            setattr(text, name, value)
    return small


def _shallow(config: Any) -> dict[str, Any]:
    lists, kept = _layers(config)
    changes: dict[str, Any] = {name: [values[layer] for layer in kept] for name, values in lists.items()}
    windows = {"sliding_window": 5, "local_attention": 10}
    changes |= {name: size for name, size in windows.items() if getattr(config, name, None)}
    return {"num_hidden_layers": len(kept)} | changes


def _layers(config: Any) -> tuple[dict[str, list[Any]], list[int]]:
    """(what the config lists by layer, two layers of each kind, in the order the model has them)."""
    depth = config.num_hidden_layers
    lists = {
        name: list(values)
        for name, values in vars(config).items()
        if isinstance(values, (list, tuple)) and len(values) == depth
    }
    kinds = list(zip(*lists.values(), strict=True)) if lists else [()] * depth
    return lists, [layer for layer in range(depth) if kinds[:layer].count(kinds[layer]) < 2]


def _narrow(config: Any) -> dict[str, Any]:
    heads = min(4, getattr(config, "num_attention_heads", 4))
    grouped = getattr(config, "num_key_value_heads", None) not in (None, getattr(config, "num_attention_heads", None))
    sizes = {
        "vocab_size": 96,
        "hidden_size": 16 * heads,
        "intermediate_size": 48,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2) if grouped else heads,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    }
    present = {name: value for name, value in sizes.items() if getattr(config, name, None) is not None}
    tokens = {
        name: getattr(config, name) % sizes["vocab_size"]
        for name in ("pad_token_id", "bos_token_id", "eos_token_id")
        if isinstance(getattr(config, name, None), int)
    }
    dropouts = {name: 0.0 for name in vars(config) if "dropout" in name or name.endswith("pdrop")}
    return present | tokens | dropouts


def _examples(vocabulary: int, padding: int | None, head: HeadKind, both_ways: bool) -> list[Example]:
    """Rows of mixed length, two of which share a prefix, none with the padding token (plain classifiers skip it)."""
    generator = np.random.default_rng(0)
    drawn = [generator.integers(0, vocabulary - 1, length) for length in LENGTHS]
    tokens = [np.where(row == padding, vocabulary - 1, row) for row in drawn]
    tokens[2] = np.concatenate([tokens[1][:PREFIX], tokens[2]])
    return [Example(str(index), (_row(row, head, both_ways),)) for index, row in enumerate(tokens)]


def _sourced(row: Row, place: int) -> Row:
    """The row behind a source of another length; the first two have one source."""
    return replace(row, source=np.roll(row.tokens, 3)[: 3 + 2 * place] if place > 1 else row.tokens[:1].repeat(4))


def _row(tokens: np.ndarray, head: HeadKind, both_ways: bool) -> Row:
    if head == "language":
        return Row(tokens, np.arange(len(tokens) - 1), tokens[1:], np.ones(len(tokens) - 1, np.float32), both_ways)
    at = np.arange(len(tokens)) if head != "class" else np.array([0 if both_ways else len(tokens) - 1])
    return Row(tokens, at, tokens[at], np.ones(len(at), np.float32), both_ways)


def _scores(scorer: Scorer, batch: Batch) -> torch.Tensor:
    output = "logp" if scorer.head_kind in VOCABULARY else "hidden" if scorer.head_kind == "embedding" else "logits"
    with torch.no_grad():
        scores: torch.Tensor = scorer(batch, frozenset({output}))[output]
    return scores


def _differs(compute: Any, truth: torch.Tensor) -> str:
    """Why the computation is not the truth; empty when it is."""
    try:
        scores = compute()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    gap = float((scores - truth).abs().max() / truth.abs().max())
    return "" if gap <= TOLERANCE else f"scores differ by {gap:.1e} of their size"
