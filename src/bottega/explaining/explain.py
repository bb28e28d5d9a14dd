"""A model opened up: `bottega.explain(name, text)`.

    explanation = bottega.explain("runs/support-1", "Where is my parcel?", beside="models/smol")
    explanation.write_page("page.html")

What is shown is what the model computes: in float32, without packing, with the attention that computes its weights.
Attention is not explanation (Jain and Wallace 2019): where a head looks does not say what decides. The logit lens
(nostalgebraist 2020) reads every layer's state with the final norm and head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bottega.errors import DataError, ModelError
from bottega.explaining.anatomy import describe, find_stacks
from bottega.explaining.trace import Floats, LayerTrace, StackTrace, Trace, record
from bottega.explaining.vocabulary import ShownToken, Vocabulary
from bottega.hardware.device import resolve_device
from bottega.inference.loader import find_head
from bottega.inference.open_model import find_model, make_codec, text_errors
from bottega.models.checkpoint import load_adapted

# Longest text that is explained: every head has a weight for every pair of tokens.
MAX_TOKENS = 256

# Tokens of the lens and of the likeliest next tokens that are named.
LENS_TOKENS, NEXT_TOKENS = 5, 40

# Numbers of a state or a head that are drawn.
STRIP = 64


class Explainer:
    """A model, loaded to be looked into.

    name     of a run, a folder or a hub id
    head     what it was trained for
    """

    def __init__(self, name: str | Path, *, device: str = "auto") -> None:
        resolved = find_model(str(name))
        self.name, self.head = resolved.name, find_head(str(name))
        self.vocabulary = Vocabulary(self.name)
        labels = (resolved.choices or {}).get("labels", [])
        model, adapted = load_adapted(self.name, torch.float32, self.head, labels, self.vocabulary.tokenizer)
        if adapted is not None and adapted.prefix:
            what = "it was tuned by tokens before every text, which an explanation would leave out"
            raise ModelError(what, where=self.name, fix="explain its base, or a run of another kind of adapter")
        if adapted is not None and adapted.invocation:
            what = "its adapter begins at its invocation, which an explanation would not know of"
            raise ModelError(what, where=self.name, fix="explain its base, or a run of another kind of adapter")
        whole = (model if adapted is None else adapted.model).to(resolve_device(device)).eval()
        self.network: Any = whole if adapted is None else adapted.network
        self.adapted = adapted
        self.codec = make_codec(self.vocabulary.tokenizer, self.network.config)

    @cached_property
    def anatomy(self) -> dict[str, Any]:
        """What it is made of, in the field's words and with its sizes."""
        return describe(self.network)

    @property
    def most_tokens(self) -> int:
        """The longest text that it explains."""
        return min(MAX_TOKENS, self.codec.max_length)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text as the model reads them; a DataError for an empty one, or one that is too long."""
        if not text.strip():
            raise DataError("there is no text", where="explain", fix="write some words")
        with text_errors(text):
            ids = [int(token) for token in self.codec.encode_prompt(text)]
        if len(ids) > self.most_tokens:
            fix = f"explain a part of it: at most {self.most_tokens} tokens"
            raise DataError(f"the text has {len(ids)} tokens", where=f"the text {text[:40]!r}", fix=fix)
        return ids

    def token(self, id: int) -> ShownToken:
        """A token by its id."""
        return self.vocabulary.token(id)

    def trace(self, text: str, written: Sequence[int] = ()) -> Trace:
        """What it computes for a text; `written`: tokens after it, of an encoder–decoder in its decoder.

        A DataError for tokens that it does not have, and for too many.
        """
        ids = self.encode(text)
        if unknown := [token for token in written if not 0 <= token < len(self.vocabulary)]:
            raise DataError(f"there is no token {unknown[0]}", where=self.name, fix="begin again with the text")
        if len(ids) + len(written) > self.most_tokens:
            what = f"text and written tokens together are {len(ids) + len(written)}, at most {self.most_tokens} fit"
            raise DataError(what, where=self.name, fix="begin again with the text")
        if self.network.config.is_encoder_decoder:
            return record(self.network, ids, [self.codec.decoder_start or 0, *written])
        return record(self.network, [*ids, *written])

    def lens(self, state: Floats) -> Floats | None:
        """[t, V] the logits that the head gives to states [t, H]; None for a model without such a head."""
        stack, head = find_stacks(self.network)[-1], self.network.get_output_embeddings()
        if head is None or self.anatomy["kind"] == "encoder" or stack.final_norm is None:
            return None
        with torch.inference_mode():
            normed = stack.final_norm(torch.from_numpy(state).to(self.network.device))
            logits: Floats = head(normed * _head_scale(self.network.config)).float().cpu().numpy()
        return _processed(logits, self.network.config)

    def layer_changes(self) -> list[float] | None:
        """How much the adapter changes each layer: norm of its updates over that of the weights; None without one."""
        if self.adapted is None:
            return None
        with torch.inference_mode():
            return [_relative_update(layer) for layer in find_stacks(self.network)[-1].layers]


def _head_scale(config: Any) -> float:
    """T5 scales states before a head that is its embedding."""
    tied = config.model_type in ("t5", "mt5") and getattr(config, "tie_word_embeddings", False)
    return float(config.d_model**-0.5) if tied else 1.0


def _processed(logits: Floats, config: Any) -> Floats:
    """What some models do to the logits of their head: Granite and Cohere scale them, Gemma 2 caps them."""
    scaled = logits / (getattr(config, "logits_scaling", None) or 1) * (getattr(config, "logit_scale", None) or 1)
    cap = getattr(config, "final_logit_softcapping", None)
    processed: Floats = cap * np.tanh(scaled / cap) if cap else scaled
    return processed


def _relative_update(layer: Any) -> float:
    changed, whole = 0.0, 0.0
    for module in layer.modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
            for name in module.active_adapters:
                changed += float(module.get_delta_weight(name).float().square().sum())
            weight = module.base_layer.weight
            whole += float(weight.float().square().sum()) if weight.is_floating_point() else 0.0
    return float(np.sqrt(changed / whole)) if whole else 0.0


@dataclass(frozen=True)
class Explanation:
    """What a model computes for a text, beside another if there is one."""

    text: str
    explainer: Explainer
    trace: Trace
    other: Explainer | None = None
    other_trace: Trace | None = None

    def document(self, position: int | None = None) -> dict[str, Any]:
        """Everything but attention, as plain data; `here` is about `position`, by default the last."""
        sides = {"model": (self.explainer, self.trace), "other": (self.other, self.other_trace)}
        documents = {
            side: None
            if explainer is None or trace is None
            else {**_model_document(explainer, trace), "here": _position_document(explainer, trace, position)}
            for side, (explainer, trace) in sides.items()
        }
        return {"text": self.text, **documents, "difference": self._difference()}

    def at(self, position: int) -> dict[str, Any]:
        """What a document has about another position, of each model."""
        sides = {"model": (self.explainer, self.trace), "other": (self.other, self.other_trace)}
        return {
            side: None if explainer is None or trace is None else _position_document(explainer, trace, position)
            for side, (explainer, trace) in sides.items()
        }

    def token_near(self, logit: float, position: int | None = None) -> ShownToken:
        """The token, of those that a document does not name, whose logit is nearest to one of the histogram's."""
        logits = _logits_at(self.trace, position)
        if logits is None:
            raise DataError("the model names no next token", where=self.explainer.name, fix="take a language model")
        others = np.argsort(-logits)[NEXT_TOKENS:]
        return self.explainer.token(int(others[np.abs(logits[others] - logit).argmin()]))

    def attention(self, stack: int, layer: int, *, other: bool = False, cross: bool = False) -> tuple[list[int], bytes]:
        """([heads, t, s], a byte a weight: 255 is all of it) of a layer; ([0, 0, 0], b"") if it has none."""
        trace = self.other_trace if other else self.trace
        found = None if trace is None else trace.stacks[stack].layers[layer]
        weights = None if found is None else found.cross if cross else found.attention
        if weights is None:
            return [0, 0, 0], b""
        return list(weights.shape), np.round(255 * weights).clip(0, 255).astype(np.uint8).tobytes()

    def _difference(self) -> dict[str, Any] | None:
        """How the two models differ, layer by layer; None if they do not read the same tokens."""
        if self.other_trace is None or self.other is None:
            return None
        mine, theirs = self.trace.stacks[-1], self.other_trace.stacks[-1]
        if list(mine.ids) != list(theirs.ids) or len(mine.layers) != len(theirs.layers):
            return None
        pairs = list(zip(mine.layers, theirs.layers, strict=True))
        return {
            "states": [_relative_distance(one.state, two.state) for one, two in pairs],
            "attention": [_head_distances(one, two) for one, two in pairs],
        }


def _relative_distance(one: Floats | None, two: Floats | None) -> float | None:
    if one is None or two is None or one.shape != two.shape:
        return None
    return float(np.linalg.norm(one - two) / max(float(np.linalg.norm(two)), 1e-12))


def _head_distances(one: LayerTrace, two: LayerTrace) -> list[float]:
    """[heads] the mean over positions of the total variation between the weights of the two models."""
    if one.attention is None or two.attention is None or one.attention.shape != two.attention.shape:
        return []
    distances: list[float] = (np.abs(one.attention - two.attention).sum(-1).mean(-1) / 2).tolist()
    return distances


def explain(
    name: str | Path, text: str, *, beside: str | Path | None = None, written: Sequence[int] = (), device: str = "auto"
) -> Explanation:
    """What a model computes for a text of up to 256 tokens.

    beside   another model, such as the one it was tuned from
    written  tokens after the text, as ids

    Raises a ModelError if there is no such model, a DataError if the text is empty or too long.
    """
    explainer = Explainer(name, device=device)
    other = None if beside is None else Explainer(beside, device=device)
    return explain_with(explainer, text, other, written)


def explain_with(
    explainer: Explainer, text: str, other: Explainer | None = None, written: Sequence[int] = ()
) -> Explanation:
    """The same with models that are loaded already."""

    def _translated() -> Sequence[int]:
        """What was written, in the tokens of the other model."""
        assert other is not None
        mine, theirs = explainer.vocabulary.tokenizer, other.vocabulary.tokenizer
        return written if mine.get_vocab() == theirs.get_vocab() else other.vocabulary.encode(mine.decode(written))

    trace = explainer.trace(text, written)
    return Explanation(text, explainer, trace, other, None if other is None else other.trace(text, _translated()))


def _model_document(explainer: Explainer, trace: Trace) -> dict[str, Any]:
    return {
        "name": explainer.name,
        "anatomy": explainer.anatomy,
        "changes": explainer.layer_changes(),
        "stacks": [_stack_document(explainer, stack) for stack in trace.stacks],
    }


def _position_document(explainer: Explainer, trace: Trace, position: int | None) -> dict[str, Any]:
    """What is about one position: of each stack its place there, and of each layer the query, key and value."""
    places = [_place(stack, position) for stack in trace.stacks]
    logits = _logits_at(trace, position) if explainer.head in ("language", "masked") else None
    return {
        "places": places,
        "strips": [
            [_strips(layer, place) for layer in stack.layers] for stack, place in zip(trace.stacks, places, strict=True)
        ],
        "lens": _lens_document(explainer, trace, places[-1]),
        "next": None if logits is None else _next(explainer, logits),
    }


def _place(stack: StackTrace, position: int | None) -> int:
    last = len(stack.ids) - 1
    return last if position is None else min(max(position, 0), last)


def _logits_at(trace: Trace, position: int | None) -> Floats | None:
    last = trace.stacks[-1]
    if trace.logits is None or len(trace.logits) != len(last.ids):
        return None
    logits: Floats = trace.logits[_place(last, position)]
    return logits


def _strips(layer: LayerTrace, place: int) -> dict[str, Any]:
    found = {kind: getattr(layer, kind) for kind in ("query", "key", "value")}
    return {
        kind: None if strip is None else _rounded(strip[place].reshape(-1)[:STRIP]) for kind, strip in found.items()
    }


def _stack_document(explainer: Explainer, stack: StackTrace) -> dict[str, Any]:
    return {
        "name": stack.name,
        "tokens": [explainer.token(id).document() for id in stack.ids],
        "embedded": _state_document(stack.embedded),
        "layers": [_layer_document(layer) for layer in stack.layers],
    }


def _layer_document(layer: LayerTrace) -> dict[str, Any]:
    return {
        "state": _state_document(layer.state),
        "heads": 0 if layer.attention is None else len(layer.attention),
        "cross": layer.cross is not None,
        "attended": _rounded(layer.attended),
        "fed": _rounded(layer.fed),
        "router": None if layer.router is None else [_rounded(row) for row in layer.router],
    }


def _state_document(state: Floats | None) -> dict[str, Any] | None:
    """The norm of each token's state, and the first numbers of it."""
    if state is None:
        return None
    return {"norms": _rounded(np.linalg.norm(state, axis=-1)), "strips": [_rounded(row[:STRIP]) for row in state]}


def _lens_document(explainer: Explainer, trace: Trace, place: int) -> list[dict[str, Any]] | None:
    """Of the embedding and of each layer: the likeliest tokens at a position, were it the last layer.

    None if the last layer's are not what the model says: it does something else between the two.
    """
    stack = trace.stacks[-1]
    states = [stack.embedded, *(layer.state for layer in stack.layers)]
    if any(state is None for state in states):
        return None
    logits = explainer.lens(np.stack([state[place] for state in states if state is not None]))
    said = _logits_at(trace, place)
    if logits is None or said is None or not np.allclose(logits[-1], said, rtol=1e-3, atol=1e-2):
        return None
    rows = []
    for row in logits:
        probabilities = _softmax(row)
        best = np.argsort(-row)[:LENS_TOKENS]
        entropy = float(-(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum())
        tokens = [{**explainer.token(int(id)).document(), "p": float(probabilities[id])} for id in best]
        rows.append({"tokens": tokens, "entropy": entropy})
    return rows


def _next(explainer: Explainer, logits: Floats) -> dict[str, Any]:
    """The logits of the likeliest next tokens, and what is needed for exact probabilities at any temperature.

    rest  a histogram of all other logits, so that a temperature can be tried without sending the vocabulary
    """
    order = np.argsort(-logits)
    best, others = order[:NEXT_TOKENS], logits[order[NEXT_TOKENS:]].astype(np.float64)
    counts, edges = np.histogram(others, bins=400) if len(others) else (np.zeros(0, int), np.zeros(1))
    sums = (
        np.bincount(np.clip(np.searchsorted(edges, others, side="right") - 1, 0, len(counts) - 1), others, len(counts))
        if len(others)
        else np.zeros(0)
    )
    kept = counts > 0
    return {
        "tokens": [{**explainer.token(int(id)).document(), "logit": float(logits[id])} for id in best],
        # Each bin by its mean: the probabilities are exact to some hundred-thousandths.
        "rest": [
            [float(value), int(count)] for value, count in zip(sums[kept] / counts[kept], counts[kept], strict=True)
        ],
    }


def _softmax(logits: Floats) -> Floats:
    exponents = np.exp(logits - logits.max())
    probabilities: Floats = exponents / exponents.sum()
    return probabilities


def _rounded(values: Floats | None) -> list[float] | None:
    """Numbers with four digits: what can be seen of them."""
    return None if values is None else [float(f"{value:.4g}") for value in np.asarray(values, np.float64).reshape(-1)]
