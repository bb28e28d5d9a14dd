"""Attention over the interval mask as its definition says; every other back end is tested against it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bottega.batch import EncoderInput
from bottega.models.attention.mask import AttentionOptions, TokenTree, relative_bias_index, visible_keys


class DenseLayout:
    """Scores between all pairs of tokens, masked ones set to minus infinity; with `source`, cross attention to it."""

    def __init__(self, batch: TokenTree, source: EncoderInput | None = None) -> None:
        self.batch, self.source = batch, source
        self.masks: dict[int | None, Tensor] = {}

    def mask(self, window: int | None) -> Tensor:
        """[T, T] bool (cross attention: [T, S]): which keys each query sees; made once per window."""
        if window not in self.masks and self.source is not None:
            self.masks[window] = self._cross_mask(self.source)
        if window not in self.masks:
            index = torch.arange(len(self.batch.tokens), device=self.batch.tokens.device)  # [T]
            self.masks[window] = visible_keys(self.batch, index[:, None], index[None, :], window)
        return self.masks[window]

    def _cross_mask(self, source: EncoderInput) -> Tensor:
        """[T, S]: the tokens of each node see all of its source."""
        mask = torch.zeros(len(self.batch.tokens), len(source.tokens), dtype=torch.bool, device=source.tokens.device)
        for node, (start, end) in enumerate(zip(self.batch.nodes.start, self.batch.nodes.end, strict=True)):
            text = source.text_of_node[node]
            mask[start:end, source.nodes.start[text] : source.nodes.end[text]] = True
        # Padding belongs to no node: it sees the first key, since a softmax over none is NaN. Nobody reads the result.
        mask[~mask.any(1), 0] = True
        return mask

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        repeat = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)  # [1, h, S, D]
        scores = (query @ key.transpose(-1, -2)) * options.scaling  # [1, h, T, S]
        if options.relative_bias is not None:
            position = self.batch.position
            index = relative_bias_index(position[:, None], position[None], len(options.relative_bias) // 2)  # [T, T]
            scores = scores + options.relative_bias[index].permute(2, 0, 1)
        if options.softcap is not None:
            scores = options.softcap * torch.tanh(scores / options.softcap)
        scores = scores.masked_fill(~self.mask(options.window), -torch.inf)
        if options.sinks is not None:
            # A sink takes part in the softmax; its value is 0, so its column is dropped afterwards.
            sinks = options.sinks.view(1, -1, 1, 1).expand(-1, -1, scores.shape[2], 1)
            probabilities = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
        else:
            probabilities = scores.softmax(-1)
        return (F.dropout(probabilities, options.dropout) @ value).transpose(1, 2)
