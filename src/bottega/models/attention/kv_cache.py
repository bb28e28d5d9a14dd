"""Keys and values of what has been computed, for rows that grow by a token at a time.

Prompts are computed as any batch is, in one flat sequence that shares what they begin with, and their keys and values
are kept. Every new token then stands in a flat sequence with those of the other rows: it sees its prompt, which is kept
once for all the rows that continue it, and what its own row has written.

Extra legend: P prompts, B rows, G most rows of a prompt, S tokens of the longest prompt, N room for new tokens,
W new tokens looked at; h query heads, g key/value heads, r = h/g, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bottega.batch import Batch
from bottega.models.attention.mask import AttentionLayout, AttentionOptions

GROWTH_TOKENS = 64
"""New tokens for which room is made at once."""

VISIBLE_STEP = {"cpu": 16, "cuda": GROWTH_TOKENS}
"""New tokens by which what is looked at grows: few lengths keep few kernels, or few recorded graphs."""


class PrefillLayout:
    """A layout that also keeps the keys and values of every layer, in the order of the layers: of prompts."""

    def __init__(self, layout: AttentionLayout) -> None:
        self.layout = layout
        self.layers: list[tuple[Tensor, Tensor]] = []

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: AttentionOptions) -> Tensor:
        self.layers.append((key, value))
        return self.layout.attend(query, key, value, style)


@dataclass
class _LayerCache:
    """prompt_key, prompt_value [P, g, S, D]; key, value [B, g, N, D]"""

    prompt_key: Tensor
    prompt_value: Tensor
    key: Tensor
    value: Tensor


class DecodeLayout:
    """The attention of B new tokens, one a row, each to its prompt and to its own row.

    batch  the prompts, as they were packed; its predictions are their last tokens
    kept   the keys and values of their layers
    rows   [B] the prompt of each row, in ascending order
    """

    def __init__(self, batch: Batch, kept: PrefillLayout, rows: Sequence[int]) -> None:
        device = batch.tokens.device
        self.lengths, places = _prompt_paths(batch)
        self.lengths = self.lengths.to(device)
        flat = places.to(device).flatten()
        self.layers = [_make_layer_cache(key, value, flat, places.shape, len(rows)) for key, value in kept.layers]
        self.longest = places.shape[1]
        self.step = torch.full((1,), -1, device=device)
        self.written = 0
        self._layer = 0
        self._biases: dict[int | None, Tensor] = {}
        self._arrange(np.asarray(rows))

    def _arrange(self, rows: np.ndarray) -> None:
        """Where each row stands among those of its prompt."""
        device = self.step.device
        rows, of = _split_uneven_prompts(rows)
        if len(of) > len(self.lengths):
            again = torch.from_numpy(of).to(device)
            self.lengths = self.lengths[again]
            for layer in self.layers:
                layer.prompt_key, layer.prompt_value = layer.prompt_key[again], layer.prompt_value[again]
        counts = np.bincount(rows, minlength=len(self.lengths))
        within = np.concatenate([np.arange(count) for count in counts])
        self.rows, most = rows, int(counts.max())
        slots = np.zeros((len(counts), most), np.int64)
        slots[rows, within] = np.arange(len(rows))
        self.most, self.even = most, bool((counts == most).all())
        self.slots = torch.from_numpy(slots.reshape(-1)).to(device)
        self.places = torch.from_numpy(rows * most + within).to(device)
        self.prompt_length = self.lengths[torch.from_numpy(rows).to(device)]

    @property
    def position(self) -> Tensor:
        """[B] that of each row's next token."""
        return self.prompt_length + self.step

    @property
    def room(self) -> int:
        """N."""
        return self.layers[0].key.shape[2]

    @property
    def looked(self) -> int:
        """W: the tokens written, and some that are not, which are hidden."""
        least = VISIBLE_STEP[self.step.device.type]
        return min(-(-self.written // least) * least, self.room)

    def begin(self) -> None:
        """Make room for the next token of every row; it is written by the forward that follows."""
        self.step += 1
        self.written += 1
        if self.written > self.room:
            for layer in self.layers:
                layer.key, layer.value = (_grow(one, GROWTH_TOKENS) for one in (layer.key, layer.value))

    def rewind(self) -> None:
        """Before each forward of the whole model, also of the same token again."""
        self._layer, self._biases = 0, {}

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, given by their numbers in ascending order."""
        device = self.step.device
        chosen = np.asarray(rows)
        prompts, renamed = np.unique(self.rows[chosen], return_inverse=True)
        here, whose = (torch.from_numpy(one).to(device) for one in (chosen, prompts))
        fewer = len(prompts) < len(self.lengths)
        for layer in self.layers:
            layer.key, layer.value = layer.key[here], layer.value[here]
            if fewer:
                layer.prompt_key, layer.prompt_value = layer.prompt_key[whose], layer.prompt_value[whose]
        self.lengths = self.lengths[whose]
        self._arrange(renamed)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: AttentionOptions) -> Tensor:
        """[1, h, B, D], [1, g, B, D], [1, g, B, D] → [1, B, h, D]."""
        layer, width = self.layers[self._layer], self.looked
        self._layer += 1
        layer.key.index_copy_(2, self.step, key[0].transpose(0, 1)[:, :, None])
        layer.value.index_copy_(2, self.step, value[0].transpose(0, 1)[:, :, None])
        count, heads = len(self.rows), key.shape[1]
        q = query[0].transpose(0, 1).reshape(count, heads, -1, query.shape[-1])
        own_key, own_value = layer.key[:, :, :width], layer.value[:, :, :width]
        far = self._from_prompts(self._to_prompts(q) @ layer.prompt_key.transpose(-1, -2))
        scores = torch.cat([far, q @ own_key.transpose(-1, -2)], -1)
        shares = self._shares(scores, style).to(value.dtype)
        seen = self._from_prompts(self._to_prompts(shares[..., : self.longest]) @ layer.prompt_value)
        out = seen + shares[..., self.longest :] @ own_value
        return out.reshape(1, count, query.shape[1], -1)

    def _shares(self, scores: Tensor, style: AttentionOptions) -> Tensor:
        """[B, g, r, S + W] scores → how much of each value is taken, in float32 or wider."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * style.scaling
        if style.softcap is not None:
            scores = style.softcap * torch.tanh(scores / style.softcap)
        scores = scores + self._bias(style.window, scores.dtype)
        if style.sinks is None:
            return scores.softmax(-1)
        sinks = style.sinks.to(scores.dtype).view(1, scores.shape[1], -1, 1).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]

    def _bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[B, 1, 1, S + W]: 0 where a key is seen, minus infinity elsewhere."""
        if window not in self._biases:
            device = self.step.device
            before, after = torch.arange(self.longest, device=device), torch.arange(self.looked, device=device)
            far = self.position[:, None] - before
            near = (self.step - after).expand(len(self.rows), -1)
            seen = torch.cat([before < self.prompt_length[:, None], near >= 0], 1)
            if window is not None:
                seen = seen & (torch.cat([far, near], 1) < window)
            bias = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, -torch.inf)
            self._biases[window] = bias[:, None, None]
        return self._biases[window]

    def _to_prompts(self, x: Tensor) -> Tensor:
        """[B, g, r, X] → [P, g, G·r, X]: the rows of each prompt side by side; where one has fewer, any row instead."""
        if self.most == 1 and self.even:
            return x
        _, heads, group, width = x.shape
        found = x if self.even else x.index_select(0, self.slots)
        found = found.view(-1, self.most, heads, group, width).transpose(1, 2)
        return found.reshape(-1, heads, self.most * group, width)

    def _from_prompts(self, x: Tensor) -> Tensor:
        """The inverse."""
        if self.most == 1 and self.even:
            return x
        prompts, heads, rows, width = x.shape
        found = x.view(prompts, heads, self.most, rows // self.most, width).transpose(1, 2)
        found = found.reshape(prompts * self.most, heads, rows // self.most, width)
        return found if self.even else found.index_select(0, self.places)


def _split_uneven_prompts(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[B] prompts of rows → [B] the same, where a prompt with far more rows than others stands several times; [P] whose
    each is.

    Prompts are computed with as many rows as the largest has, and rows of no prompt are no more than there are others.
    """
    counts = np.bincount(rows)
    most = int(counts.max())
    while most > 1 and int((-(-counts // most)).sum()) * most > 2 * len(rows):
        most = -(-most // 2)
    within = np.concatenate([np.arange(count) for count in counts])
    parts, named = np.unique(np.stack([rows, within // most], 1), axis=0, return_inverse=True)
    return named.reshape(-1), parts[:, 0]


def _prompt_paths(batch: Batch) -> tuple[Tensor, Tensor]:
    """([P] lengths, [P, S] flat indices of each prompt's tokens; padding repeats the last)."""
    last = batch.at.cpu().numpy()
    nodes = np.searchsorted(batch.nodes.start, last, side="right") - 1
    found = []
    for place, node in zip(last.tolist(), nodes.tolist(), strict=True):
        path = batch.nodes.path(node)
        found.append(path[: int(np.flatnonzero(path == place)[0]) + 1])
    lengths = np.array([len(path) for path in found])
    places = np.stack([np.pad(path, (0, lengths.max() - len(path)), mode="edge") for path in found])
    return torch.from_numpy(lengths), torch.from_numpy(places)


def _gather_prompts(kept: Tensor, flat: Tensor, shape: torch.Size) -> Tensor:
    """[1, g, T, D] → [P, g, S, D]."""
    heads, width = kept.shape[1], kept.shape[-1]
    return kept[0].index_select(1, flat).view(heads, *shape, width).transpose(0, 1).contiguous()


def _make_layer_cache(key: Tensor, value: Tensor, flat: Tensor, shape: torch.Size, rows: int) -> _LayerCache:
    """The keys and values of prompts, and room for those of rows that have written nothing yet."""
    room = (key.new_zeros(rows, one.shape[1], GROWTH_TOKENS, one.shape[-1]) for one in (key, value))
    return _LayerCache(_gather_prompts(key, flat, shape), _gather_prompts(value, flat, shape), *room)


def _grow(one: Tensor, more: int) -> Tensor:
    return torch.cat([one, one.new_zeros(*one.shape[:2], more, one.shape[-1])], 2)
