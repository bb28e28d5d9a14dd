"""The last layer of a BERT-like encoder, computed only at the positions a head reads.

Keys and values are needed of every token; the rest of the layer, five sixths of its products, only at those positions:
the first token of each row for a classifier, one token in seven for a masked language model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models.arithmetic.plain import PLAIN, Arithmetic
from bottega.models.attention.mask import AttentionOptions
from bottega.models.kernels.attention import single_row_layout


def matches(module: nn.Module) -> bool:
    """Whether this has the modules of a BERT layer, and no cross attention."""
    layer = cast(Any, module)
    attention = getattr(getattr(layer, "attention", None), "self", None)
    names = ("query", "key", "value", "dropout", "scaling", "attention_head_size")
    has_attention = all(hasattr(attention, name) for name in names)
    has_mlp = all(hasattr(layer, name) for name in ("intermediate", "output"))
    return has_attention and has_mlp and not hasattr(layer, "crossattention")


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """One row of which every position is read: elsewhere the fused forward gives zeros."""
    x = torch.randn(1, length, cast(int, cast(Any, module).attention.self.query.in_features))
    return x, {"layout": single_row_layout(length), "read": torch.arange(length)}


def fused_forward(module: nn.Module, arithmetic: Arithmetic = PLAIN) -> Callable[..., Tensor]:
    """The layer at the positions in `read`, zeros elsewhere; the module's own forward in a call without `read`."""
    return partial(_forward, module)


def _forward(
    module: Any,
    hidden_states: Tensor,
    *arguments: Any,
    read: Tensor | None = None,
    layout: Any = None,
    **keywords: Any,
) -> Tensor:
    """read  [N] positions in the flat sequence, each once"""
    if read is None or layout is None:
        return cast(Tensor, type(module).forward(module, hidden_states, *arguments, layout=layout, **keywords))
    attention, (x,) = module.attention.self, hidden_states  # [T, H]
    read_states = x.index_select(0, read)  # [N, H]
    # The layout is that of all tokens, so the queries stand among zeros: [T, H].
    query = x.new_zeros(len(x), attention.query.out_features).index_copy(0, read, attention.query(read_states))
    q, k, v = (
        y.view(1, len(x), -1, attention.attention_head_size).transpose(1, 2)  # [1, h, T, D]
        for y in (query, attention.key(x), attention.value(x))
    )
    dropout = attention.dropout.p if module.training else 0.0
    attended = layout.attend(q, k, v, AttentionOptions(attention.scaling, dropout=dropout))  # [1, T, h, D]
    read_states = module.attention.output(attended[0].flatten(1).index_select(0, read), read_states)
    read_states = module.output(module.intermediate(read_states), read_states)
    return torch.zeros_like(x).index_copy(0, read, read_states)[None]
