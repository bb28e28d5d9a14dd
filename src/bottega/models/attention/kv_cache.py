"""The KV cache: keys and values of computed tokens, for rows that grow by one token at a time.

Prefill: prompts are computed as any batch is, in one flat sequence with shared prefixes, and their keys and values are
kept. Decode: the newest token of every row stands in one flat sequence; each sees its prompt, kept once for all rows
that continue it, and the tokens its own row has generated.

Extra legend: P prompts, B rows, G most rows of a prompt, S tokens of the longest prompt, N capacity for new tokens,
W new tokens attended to; h query heads, g key/value heads, r = h/g, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bottega.batch import Batch
from bottega.models.attention.cached_text import CachedText, CacheForm
from bottega.models.attention.mask import AttentionLayout, AttentionOptions

# New tokens per row for which memory is added at once.
GROWTH_TOKENS = 64

# W is a multiple of this: few different lengths mean few kernels on a CPU, and few recorded CUDA graphs.
VISIBLE_STEP = {"cpu": 16, "cuda": GROWTH_TOKENS}


class PrefillLayout:
    """Wraps a layout and records the keys and values of every layer, in the order of the layers."""

    def __init__(self, layout: AttentionLayout) -> None:
        self.layout = layout
        self.layers: list[tuple[Tensor, Tensor]] = []  # [1, g, T, D] each

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        self.layers.append((key, value))
        return self.layout.attend(query, key, value, options)

    def texts(self, batch: Batch) -> list[CachedText]:
        """The text of each prompt of a packed batch, whose predictions are at their last tokens."""
        form, found = CacheForm.of(self.layers), list[CachedText]()
        for path in _prompt_paths(batch):
            text, index = form.new_text(len(path)), torch.from_numpy(path).to(batch.tokens.device)
            for layer, parts in enumerate(self.layers):
                for memory, part in zip(text.layer(layer), parts, strict=True):
                    torch.index_select(part[0], 1, index, out=memory)
            found.append(text)
        return found


@dataclass
class _LayerCache:
    """prompt_key, prompt_value [P, g, S, D]; key, value [B, g, N, D]"""

    prompt_key: Tensor
    prompt_value: Tensor
    key: Tensor
    value: Tensor


class DecodeLayout:
    """The attention of B new tokens, one per row, each to its prompt and to its own row.

    batch    the packed prompts; its predictions are at their last tokens
    prefill  the layout they were computed with
    rows     [B] the prompt of each row, in ascending order
    """

    def __init__(self, batch: Batch, prefill: PrefillLayout, rows: Sequence[int]) -> None:
        device = batch.tokens.device
        paths = _prompt_paths(batch)
        self.lengths = torch.tensor([len(path) for path in paths], device=device)  # [P]
        longest = max(map(len, paths))
        # Padding repeats the last.
        index = torch.from_numpy(np.stack([np.pad(path, (0, longest - len(path)), mode="edge") for path in paths]))
        flat = index.to(device).flatten()  # of [P, S]
        self.layers = [_make_layer_cache(key, value, flat, index.shape, len(rows)) for key, value in prefill.layers]
        self.longest = index.shape[1]
        # The step is a tensor for CUDA graphs: a recorded graph reads it from memory. `written` is the same for Python.
        self.step = torch.full((1,), -1, device=device)
        self.written = 0
        self._layer = 0
        self._biases: dict[int | None, Tensor] = {}
        self._assign_slots(np.asarray(rows))

    def _assign_slots(self, rows: np.ndarray) -> None:
        """Give each row a slot in the [P, G] rectangle of its prompt."""
        device = self.step.device
        rows, source_prompts = _split_uneven_prompts(rows)
        if len(source_prompts) > len(self.lengths):
            index = torch.from_numpy(source_prompts).to(device)
            self.lengths = self.lengths[index]
            for layer in self.layers:
                layer.prompt_key, layer.prompt_value = layer.prompt_key[index], layer.prompt_value[index]
        counts = np.bincount(rows, minlength=len(self.lengths))  # [P] rows of each prompt
        rank = np.concatenate([np.arange(count) for count in counts])  # [B] of each row among those of its prompt
        self.rows, most = rows, int(counts.max())
        slots = np.zeros((len(counts), most), np.int64)
        slots[rows, rank] = np.arange(len(rows))
        self.most, self.even = most, bool((counts == most).all())
        self.slots = torch.from_numpy(slots.reshape(-1)).to(device)  # [P·G] the row in each slot; 0 in empty ones
        self.row_slots = torch.from_numpy(rows * most + rank).to(device)  # [B] the slot of each row
        self.prompt_length = self.lengths[torch.from_numpy(rows).to(device)]  # [B]

    @property
    def position(self) -> Tensor:
        """[B] position of each row's newest token."""
        return self.prompt_length + self.step

    @property
    def capacity(self) -> int:
        """N, new tokens per row that fit in the allocated memory."""
        return self.layers[0].key.shape[2]

    @property
    def visible_length(self) -> int:
        """W: the tokens written, rounded up; those not yet written are masked."""
        step = VISIBLE_STEP[self.step.device.type]
        return min(-(-self.written // step) * step, self.capacity)

    def begin_token(self) -> None:
        """Advance by one token per row; the next forward writes its keys and values."""
        self.step += 1
        self.written += 1
        if self.written > self.capacity:
            for layer in self.layers:
                layer.key, layer.value = (_grow(x, GROWTH_TOKENS) for x in (layer.key, layer.value))

    def begin_forward(self) -> None:
        """Start again at the first layer: call it before each forward, also when the same token is computed again."""
        self._layer, self._biases = 0, {}

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, given by their indices in ascending order."""
        device = self.step.device
        kept = np.asarray(rows)
        prompts, renumbered = np.unique(self.rows[kept], return_inverse=True)
        row_index, prompt_index = (torch.from_numpy(index).to(device) for index in (kept, prompts))
        has_fewer_prompts = len(prompts) < len(self.lengths)
        for layer in self.layers:
            layer.key, layer.value = layer.key[row_index], layer.value[row_index]
            if has_fewer_prompts:
                layer.prompt_key, layer.prompt_value = layer.prompt_key[prompt_index], layer.prompt_value[prompt_index]
        self.lengths = self.lengths[prompt_index]
        self._assign_slots(renumbered)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        """[1, h, B, D], [1, g, B, D], [1, g, B, D] → [1, B, h, D]."""
        # Layers call in their order, so a counter tells whose cache this is.
        layer, width = self.layers[self._layer], self.visible_length
        self._layer += 1
        layer.key.index_copy_(2, self.step, key[0].transpose(0, 1)[:, :, None])
        layer.value.index_copy_(2, self.step, value[0].transpose(0, 1)[:, :, None])
        count, heads = len(self.rows), key.shape[1]
        q = query[0].transpose(0, 1).reshape(count, heads, -1, query.shape[-1])  # [B, g, r, D]
        row_key, row_value = layer.key[:, :, :width], layer.value[:, :, :width]  # [B, g, W, D]
        # Rows of a prompt are computed together, so its keys and values are read once and never copied.
        prompt_scores = self._from_prompts(self._to_prompts(q) @ layer.prompt_key.transpose(-1, -2))  # [B, g, r, S]
        scores = torch.cat([prompt_scores, q @ row_key.transpose(-1, -2)], -1)  # [B, g, r, S + W]
        p = self._probabilities(scores, options).to(value.dtype)
        of_prompt = self._from_prompts(self._to_prompts(p[..., : self.longest]) @ layer.prompt_value)  # [B, g, r, D]
        out = of_prompt + p[..., self.longest :] @ row_value
        return out.reshape(1, count, query.shape[1], -1)

    def _probabilities(self, scores: Tensor, options: AttentionOptions) -> Tensor:
        """[B, g, r, S + W] scores → attention weights, float32 or wider."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * options.scaling
        if options.softcap is not None:
            scores = options.softcap * torch.tanh(scores / options.softcap)
        scores = scores + self._bias(options.window, scores.dtype)
        if options.sinks is None:
            return scores.softmax(-1)
        sinks = options.sinks.to(scores.dtype).view(1, scores.shape[1], -1, 1).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]

    def _bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[B, 1, 1, S + W]: 0 where a key is visible, minus infinity elsewhere."""
        if window not in self._biases:
            device = self.step.device
            prompt, generated = (
                torch.arange(self.longest, device=device),  # [S] positions
                torch.arange(self.visible_length, device=device),  # [W] steps
            )
            prompt_distance = self.position[:, None] - prompt  # [B, S]
            row_distance = (self.step - generated).expand(len(self.rows), -1)  # [B, W], negative if not yet written
            visible = torch.cat([prompt < self.prompt_length[:, None], row_distance >= 0], 1)
            if window is not None:
                visible = visible & (torch.cat([prompt_distance, row_distance], 1) < window)
            bias = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill(~visible, -torch.inf)
            self._biases[window] = bias[:, None, None]
        return self._biases[window]

    def _to_prompts(self, x: Tensor) -> Tensor:
        """[B, g, r, X] → [P, g, G·r, X]: the rows of each prompt side by side; empty slots hold any row."""
        if self.most == 1 and self.even:
            return x
        _, heads, group, width = x.shape
        slots = x if self.even else x.index_select(0, self.slots)
        slots = slots.view(-1, self.most, heads, group, width).transpose(1, 2)
        return slots.reshape(-1, heads, self.most * group, width)

    def _from_prompts(self, x: Tensor) -> Tensor:
        """[P, g, G·r, X] → [B, g, r, X], the inverse."""
        if self.most == 1 and self.even:
            return x
        prompts, heads, rows, width = x.shape
        slots = x.view(prompts, heads, self.most, rows // self.most, width).transpose(1, 2)
        slots = slots.reshape(prompts * self.most, heads, rows // self.most, width)
        return slots if self.even else slots.index_select(0, self.row_slots)


def _split_uneven_prompts(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Repeat a prompt that has far more rows than others, so that few slots are empty.

    [B] prompt of each row → ([B] the same among the repeated prompts, [P] which prompt each of those is)
    """
    # Every prompt is computed with as many rows as the largest has; at most half of all slots may be empty.
    counts = np.bincount(rows)
    most = int(counts.max())
    while most > 1 and int((-(-counts // most)).sum()) * most > 2 * len(rows):
        most = -(-most // 2)
    rank = np.concatenate([np.arange(count) for count in counts])
    parts, part_of_row = np.unique(np.stack([rows, rank // most], 1), axis=0, return_inverse=True)
    return part_of_row.reshape(-1), parts[:, 0]


def _prompt_paths(batch: Batch) -> list[np.ndarray]:
    """The flat indices of each prompt's tokens."""
    last = batch.at.cpu().numpy()
    nodes = np.searchsorted(batch.nodes.start, last, side="right") - 1
    paths = []
    for end, node in zip(last.tolist(), nodes.tolist(), strict=True):
        path = batch.nodes.path(node)
        # A prompt that another one continues ends within a node.
        paths.append(path[: int(np.flatnonzero(path == end)[0]) + 1])
    return paths


def _gather_prompts(cached: Tensor, flat: Tensor, shape: torch.Size) -> Tensor:
    """[1, g, T, D] → [P, g, S, D]."""
    heads, width = cached.shape[1], cached.shape[-1]
    return cached[0].index_select(1, flat).view(heads, *shape, width).transpose(0, 1).contiguous()


def _make_layer_cache(key: Tensor, value: Tensor, flat: Tensor, shape: torch.Size, rows: int) -> _LayerCache:
    """The keys and values of the prompts, and empty memory for those of rows."""
    memory = (key.new_zeros(rows, x.shape[1], GROWTH_TOKENS, x.shape[-1]) for x in (key, value))
    return _LayerCache(_gather_prompts(key, flat, shape), _gather_prompts(value, flat, shape), *memory)


def _grow(x: Tensor, tokens: int) -> Tensor:
    """[B, g, N, D] → [B, g, N + tokens, D]."""
    return torch.cat([x, x.new_zeros(*x.shape[:2], tokens, x.shape[-1])], 2)
