"""Trained tokens of several adapters on one network: prompt and prefix tuning of rows that are computed together.

Each adapter has ids of its own for its tokens, which stand before its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from bottega.adapters import StandIn, TrainedKeys, use_trained_keys


class TokensInUse(NamedTuple):
    """Trained tokens of an adapter among those of a forward.

    places   [P] where they stand in the flat sequence
    numbers  [P] which of its n tokens each is
    """

    adapter: str
    places: Tensor
    numbers: Tensor

    def to(self, device: torch.device) -> TokensInUse:
        """The same on a device."""
        return TokensInUse(self.adapter, self.places.to(device), self.numbers.to(device))


class RowEmbedding(StandIn):
    """An embedding that gives trained tokens the embeddings of their adapter."""

    def __init__(self, original: nn.Module, tokens: RowTokens) -> None:
        super().__init__(original)
        self.tokens = tokens

    def forward(self, ids: Tensor) -> Tensor:
        """[…] → […, H]"""
        embedded: Tensor = self.original(ids)
        for adapter, places, numbers in self.tokens.in_use():
            if (own := self.tokens.embeddings.get(adapter)) is not None:
                flat = embedded.flatten(0, -2).index_copy(0, places, own[numbers].to(embedded.dtype))
                embedded = flat.view_as(embedded)
        return embedded


class RowTokens:
    """The trained tokens of adapters by name.

    embeddings       [n, H] of each
    keys_and_values  [n, 2 · L, g, D] of each
    in_use           those of the next forward
    """

    def __init__(self, network: Any, in_use: Callable[[], Sequence[TokensInUse]]) -> None:
        self.network, self.in_use = network, in_use
        self.embeddings: dict[str, Tensor] = {}
        self.keys_and_values: dict[str, Tensor] = {}

    def add(self, name: str, embeddings: Tensor | None, keys_and_values: Tensor | None) -> None:
        """Put the tokens of an adapter on the network; what it has of others stays."""
        if embeddings is not None:
            self.embeddings[name] = embeddings
            words = self.network.get_input_embeddings()
            if not isinstance(words, RowEmbedding):
                self.network.set_input_embeddings(RowEmbedding(words, self))
        if keys_and_values is not None:
            self.keys_and_values[name] = keys_and_values
        self.put_back()

    def put_back(self) -> None:
        """Let the attention ask these for keys and values, whatever it asked since."""
        if self.keys_and_values:
            use_trained_keys(cast(nn.Module, self.network), self._trained_keys)

    def count(self, name: str) -> int:
        """How many tokens an adapter has."""
        return sum(len(own[name]) for own in (self.embeddings, self.keys_and_values) if name in own)

    def remove(self, name: str) -> None:
        """Forget an adapter."""
        self.embeddings.pop(name, None)
        self.keys_and_values.pop(name, None)

    def _trained_keys(self) -> tuple[TrainedKeys, ...]:
        return tuple(
            TrainedKeys(places, numbers, self.keys_and_values[adapter])
            for adapter, places, numbers in self.in_use()
            if adapter in self.keys_and_values
        )
