"""The definition of attention over the interval mask, which every back end is tested against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bottega.batch import EncoderInput
from bottega.models.attention.mask import AttentionOptions, TokenTree, relative_bias_index, visible_keys


class DenseLayout:
    """The definition in code: scores between all pairs, hidden ones set to minus infinity."""

    def __init__(self, batch: TokenTree, source: EncoderInput | None = None) -> None:
        self.batch, self.source = batch, source
        self.masks: dict[int | None, Tensor] = {}

    def mask(self, window: int | None) -> Tensor:
        if window not in self.masks and self.source is not None:
            self.masks[window] = self._of_source(self.source)
        if window not in self.masks:
            index = torch.arange(len(self.batch.tokens), device=self.batch.tokens.device)
            self.masks[window] = visible_keys(self.batch, index[:, None], index[None, :], window)
        return self.masks[window]

    def _of_source(self, source: EncoderInput) -> Tensor:
        """[T, S] each node's tokens see all of its source."""
        seen = torch.zeros(len(self.batch.tokens), len(source.tokens), dtype=torch.bool, device=source.tokens.device)
        for node, (start, end) in enumerate(zip(self.batch.nodes.start, self.batch.nodes.end, strict=True)):
            text = source.of[node]
            seen[start:end, source.nodes.start[text] : source.nodes.end[text]] = True
        # Tokens of no node see the first, so that their softmax is of something; nobody reads them.
        seen[~seen.any(1), 0] = True
        return seen

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: AttentionOptions) -> Tensor:
        repeat = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        scores = (query @ key.transpose(-1, -2)) * style.scaling
        if style.near is not None:
            position = self.batch.position
            far = relative_bias_index(position[:, None], position[None], len(style.near) // 2)
            scores = scores + style.near[far].permute(2, 0, 1)
        if style.softcap is not None:
            scores = style.softcap * torch.tanh(scores / style.softcap)
        scores = scores.masked_fill(~self.mask(style.window), -torch.inf)
        if style.sinks is not None:
            sinks = style.sinks.view(1, -1, 1, 1).expand(-1, -1, scores.shape[2], 1)
            probabilities = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
        else:
            probabilities = scores.softmax(-1)
        return (F.dropout(probabilities, style.dropout) @ value).transpose(1, 2)
