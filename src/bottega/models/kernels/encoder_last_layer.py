"""The last layer of an encoder in BERT's form, at the places alone that a head reads.

Every place's keys and values are needed, and of the rest of the layer, five sixths of its products, only what is read:
the first token of each row for a class, one in seven for a masked word.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models.attention.mask import AttentionOptions
from bottega.models.kernels.attention import single_row_layout


def matches(module: nn.Module) -> bool:
    """Whether this has a BERT layer's parts, and no attention to another sequence."""
    parts = cast(Any, module)
    own = getattr(getattr(parts, "attention", None), "self", None)
    names = all(hasattr(own, name) for name in ("query", "key", "value", "dropout", "scaling", "attention_head_size"))
    around = all(hasattr(parts, name) for name in ("intermediate", "output"))
    return names and around and not hasattr(parts, "crossattention")


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """What it is proved on: a row of which everything is read, as elsewhere it answers nothing."""
    x = torch.randn(1, length, cast(int, cast(Any, module).attention.self.query.in_features))
    return x, {"layout": single_row_layout(length), "read": torch.arange(length)}


def fused_forward(module: nn.Module) -> Callable[..., Tensor]:
    """Its forward, with zeros where nothing is read; its own where a call does not say what is."""
    return partial(_forward, module)


def _forward(
    module: Any, hidden_states: Tensor, *arguments: Any, read: Tensor | None = None, layout: Any = None, **options: Any
) -> Tensor:
    """read  [N] places, each once"""
    if read is None or layout is None:
        return cast(Tensor, type(module).forward(module, hidden_states, *arguments, layout=layout, **options))
    own, (x,) = module.attention.self, hidden_states
    few = x.index_select(0, read)
    query = x.new_zeros(len(x), own.query.out_features).index_copy(0, read, own.query(few))
    heads = (y.view(1, len(x), -1, own.attention_head_size).transpose(1, 2) for y in (query, own.key(x), own.value(x)))
    seen = layout.attend(*heads, AttentionOptions(own.scaling, dropout=own.dropout.p if module.training else 0.0))
    few = module.attention.output(seen[0].flatten(1).index_select(0, read), few)
    few = module.output(module.intermediate(few), few)
    return torch.zeros_like(x).index_copy(0, read, few)[None]
