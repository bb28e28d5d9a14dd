"""A model's own head, computed on hidden states that were computed elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling


def classifier_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """[N, H] → [N, C]: the classifier of a transformers `…ForSequenceClassification`, at any positions."""
    modules = cast(Any, model)
    # Decoders have a linear `score`. BERT pools the first token, then classifies; RoBERTa's classifier takes a sequence
    # and reads its first token. So each position is passed to those as a sequence of one: [N, 1, H].
    if hasattr(modules, "score"):
        return cast(Callable[[Tensor], Tensor], modules.score)
    pooler = getattr(modules.base_model, "pooler", None)
    if pooler is not None:
        return lambda hidden: cast(Tensor, modules.classifier(modules.dropout(pooler(hidden[:, None]))))
    return lambda hidden: cast(Tensor, modules.classifier(hidden[:, None]))


def own_head_logits(model: nn.Module, hidden: Tensor, tokens: Tensor | None = None) -> Tensor:
    """[n, H] → [n, …], or [C] of a classifier: the model's own forward, from its final hidden states on.

    tokens  [n] the tokens of these states, for a head that reads them as well
    """
    network = cast(Any, model)
    states = hidden[None]  # [1, n, H]
    body_output = BaseModelOutputWithPooling(
        last_hidden_state=cast(Any, states), pooler_output=cast(Any, _pool(network.base_model, states))
    )
    # Any ids do for a head that ignores them: the body, which would embed them, is replaced.
    ids = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device) if tokens is None else tokens
    with _replace_forward(network.base_model, lambda *args, **kwargs: body_output):
        output = network(input_ids=ids[None])
    return cast(Tensor, output.logits[0])


def _pool(body: Any, states: Tensor) -> Tensor | None:
    """[1, n, H] → [1, H]: the pooled vector of a body that has a pooler; None for any other."""
    pooler, activation = (getattr(body, name, None) for name in ("pooler", "pooler_activation"))
    if pooler is None or activation is None:
        return None if pooler is None else cast(Tensor, pooler(states))
    # ALBERT's pooler is a linear layer, with the activation beside it.
    return cast(Tensor, activation(pooler(states[:, 0])))


def masked_lm_states(model: nn.Module, hidden: Tensor) -> Tensor:
    """[n, H] → [n, H]: the states that a masked language model's head multiplies with its vocabulary."""
    # The head's last layer replaced by the identity, what the model returns as logits is that layer's input.
    with _replace_forward(cast(Any, model).get_output_embeddings(), lambda states: states):
        return own_head_logits(model, hidden)


@contextmanager
def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, calling `module` computes `forward`; afterwards it has its own again, a fused one included."""
    instance_forward = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        vars(module).pop("forward")
        if instance_forward is not None:
            module.forward = instance_forward
