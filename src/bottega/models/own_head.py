"""A model's own head, run on hidden states that were computed elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling


def classifier_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """[N, H] → [N, C]: the classifier of a transformers `…ForSequenceClassification`, at any places.

    Decoders score a hidden state directly; BERT pools it first; RoBERTa's classifier takes a sequence and reads
    its first token, so each place is handed over as a sequence of one.
    """
    parts = cast(Any, model)
    if hasattr(parts, "score"):
        return cast(Callable[[Tensor], Tensor], parts.score)
    pooler = getattr(parts.base_model, "pooler", None)
    if pooler is not None:
        return lambda hidden: cast(Tensor, parts.classifier(parts.dropout(pooler(hidden[:, None]))))
    return lambda hidden: cast(Tensor, parts.classifier(hidden[:, None]))


def own_head_logits(model: nn.Module, hidden: Tensor, tokens: Tensor | None = None) -> Tensor:
    """[n, H] → [n, …], or [C] of a classifier: the model's own forward, from its final hidden states on.

    tokens  [n] whose states these are, for a head that looks at them as well
    """
    network = cast(Any, model)
    states = hidden[None]
    given = BaseModelOutputWithPooling(
        last_hidden_state=cast(Any, states), pooler_output=cast(Any, _pool(network.base_model, states))
    )
    ids = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device) if tokens is None else tokens
    with _replace_forward(network.base_model, lambda *args, **kwargs: given):
        found = network(input_ids=ids[None])
    return cast(Tensor, found.logits[0])


def _pool(base: Any, states: Tensor) -> Tensor | None:
    """[1, n, H] → [1, H] of a model that makes one vector of its states; ALBERT does by a layer and an activation."""
    pooler, activation = (getattr(base, name, None) for name in ("pooler", "pooler_activation"))
    if pooler is None or activation is None:
        return None if pooler is None else cast(Tensor, pooler(states))
    return cast(Tensor, activation(pooler(states[:, 0])))


def masked_lm_states(model: nn.Module, hidden: Tensor) -> Tensor:
    """[n, H] → [n, H]: what the head of a masked language model compares with the vocabulary."""
    with _replace_forward(cast(Any, model).get_output_embeddings(), lambda states: states):
        return own_head_logits(model, hidden)


@contextmanager
def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, `module` computes `forward`."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        vars(module).pop("forward")
        if own is not None:
            module.forward = own
