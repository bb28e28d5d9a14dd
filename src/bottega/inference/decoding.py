"""Decoding: the logits of the next tokens of rows that decode together, in the way that suits the model.

Which rows decode together, what is sampled and when a row ends is decided by `generator.Writer`.

Legend: B rows being decoded, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bottega.batch import Batch, Example, Row
from bottega.inference.cuda_graph import CapturedStep
from bottega.inference.runtimes._network import RuntimeNetwork
from bottega.models import native
from bottega.models.attention import CACHE_KEYWORDS, make_layout
from bottega.models.attention.cached_text import CacheForm
from bottega.models.attention.kv_cache import DecodeLayout, PrefillLayout
from bottega.models.attention.mask import AttentionLayout
from bottega.models.attention.native_step import make_step_layout
from bottega.models.attention.row_cache import Prefix, RowCache
from bottega.models.scorer import first_position_id
from bottega.packing import pack, pad_tree


class Decoding(ABC):
    """One group of rows from their prompts to the end of the last.

    many  several rows can be in a group
    """

    many: ClassVar[bool] = True

    def __init__(self, network: Any, prompts: Sequence[tuple[int, ...]], reset_row_state: Callable[[], None]) -> None:
        """`reset_row_state` resets what the network keeps of earlier rows."""
        self.network, self.prompts, self.reset_row_state = network, prompts, reset_row_state

    @abstractmethod
    def start(self) -> Tensor:
        """[B, V] the logits after each row's prompt (prefill)."""

    @abstractmethod
    def step(self, next_tokens: Tensor, kept: Sequence[int]) -> Tensor:
        """[B, V] logits after the next tokens [B] of the rows that go on; `kept`: their indices in the last step."""

    @classmethod
    @contextmanager
    def set_attention(cls, network: Any) -> Iterator[None]:
        """Inside, the network computes attention as this way of decoding needs it."""
        before = network.config._attn_implementation
        # Some attention, such as Gemma-2's with a softcap, exists only as the eager implementation.
        network.set_attn_implementation("sdpa" if network._supports_sdpa else "eager")
        try:
            yield
        finally:
            network.set_attn_implementation(before)


def choose_decoding(network: Any, *, packed: bool) -> type[Decoding]:
    """The fastest way that is exact; `packed`: the network computes many rows in one flat sequence."""
    if isinstance(network, RuntimeNetwork):
        return RuntimeDecoding
    if network.config.is_encoder_decoder:
        return EncoderDecoderDecoding
    if not packed:
        return UncachedDecoding
    return NativeDecoding if native.is_marked(network) else PackedDecoding


class PackedDecoding(Decoding):
    """Packed rows with a KV cache: one new token of each row per forward.

    Rows that have ended are computed along until they are a quarter of all: removing them copies the whole cache.
    """

    @classmethod
    @contextmanager
    def set_attention(cls, network: Any) -> Iterator[None]:
        yield

    def start(self) -> Tensor:
        """Rows with the same prompt share its computation."""
        batch, kept, logits, indices = self._read_prompts()
        self.layout = DecodeLayout(batch, kept, indices)
        self.live = list(range(len(indices)))
        self.tokens = batch.tokens.new_zeros(len(indices))
        self.next, self.moved = CapturedStep(self._next, self.network, device=self.network.device), 0
        return logits[torch.tensor(indices, device=logits.device)]

    def _read_prompts(self) -> tuple[Batch, PrefillLayout, Tensor, list[int]]:
        """(the distinct prompts packed, their keys and values, the logits after each, the prompt of each row)."""
        self.first = first_position_id(self.network)
        prompts, indices = _distinct(self.prompts)
        batch = pack([_prompt_example(prompt) for prompt in prompts]).to(str(self.network.device))
        whole = pad_tree(batch)
        kept = PrefillLayout(make_layout(whole))
        return batch, kept, self._forward(whole.tokens, whole.position, kept, batch.at), indices

    def step(self, next_tokens: Tensor, kept: Sequence[int]) -> Tensor:
        self.live = [self.live[index] for index in kept]
        if 4 * len(self.live) <= 3 * len(self.tokens):
            self.layout.keep_rows(self.live)
            self.live = list(range(len(self.live)))
            self.tokens = self.tokens.new_zeros(len(self.live))
            self.moved += 1
        all_live = len(self.live) == len(self.tokens)
        indices = None if all_live else torch.tensor(self.live, device=next_tokens.device)
        self.tokens.copy_(next_tokens) if indices is None else self.tokens.index_copy_(0, indices, next_tokens)
        self.layout.begin_token()
        logits = self.next((self.layout.visible_length, self.layout.capacity, self.moved))
        return logits if indices is None else logits[indices]

    def _next(self) -> Tensor:
        """[B, V] logits after `self.tokens`; its kernels are captured in a CUDA graph."""
        self.layout.begin_forward()
        return self._forward(self.tokens, self.layout.position, self.layout, 0)

    def _forward(self, tokens: Tensor, position: Tensor, layout: AttentionLayout, read: Tensor | int) -> Tensor:
        out = self.network(
            input_ids=tokens[None],
            position_ids=(position + self.first)[None],
            layout=layout,
            use_cache=False,
            logits_to_keep=read,
        )
        logits: Tensor = out.logits[0]
        return logits


class NativeDecoding(PackedDecoding):
    """Packed rows with a KV cache whose attention is computed in C++; rows with the same prompt read it together."""

    def start(self) -> Tensor:
        batch, kept, logits, indices = self._read_prompts()
        texts, self.cache = kept.texts(batch), RowCache(CacheForm.of(kept.layers))
        prefixes = [
            Prefix(np.arange(len(text)), text) if indices.count(i) > 1 else None for i, text in enumerate(texts)
        ]
        self.rows = [
            self.cache.add(texts[index] if prefixes[index] is None else texts[index].part(0, 0), prefixes[index])
            for index in indices
        ]
        return logits[indices]

    def step(self, next_tokens: Tensor, kept: Sequence[int]) -> Tensor:
        rows = [self.rows[index] for index in kept]
        for row in set(self.rows) - set(rows):
            self.cache.remove(row)
        self.rows = rows
        self.cache.grow()
        in_cache = self.cache.rows
        place = {row: index for index, row in enumerate(in_cache)}
        places = torch.tensor([place[row] for row in rows])
        tokens = torch.empty_like(next_tokens).index_copy_(0, places, next_tokens)
        layout = make_step_layout(self.network, self.cache, [], [])
        logits = self._forward(tokens, torch.tensor([row.position for row in in_cache]), layout, 0)
        layout.end()
        return logits[places]


class EncoderDecoderDecoding(Decoding):
    """An encoder–decoder: prompts are encoded once, right-padded; the decoder has a KV cache."""

    def start(self) -> Tensor:
        taken = signature(self.network.forward).parameters
        self.cache_keyword = next(name for name in CACHE_KEYWORDS if name in taken)
        prompts, numbers = _distinct(self.prompts)
        device = self.network.device
        ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for index, prompt in enumerate(prompts):
            ids[index, : len(prompt)] = torch.tensor(prompt, device=device)
            mask[index, : len(prompt)] = 1
        self.reset_row_state()
        read = self.network.get_encoder()(input_ids=ids, attention_mask=mask)
        indices = torch.tensor(numbers, device=device)
        self.form, self.cache = type(read), None
        self.states, self.mask = read.last_hidden_state[indices], mask[indices]
        begin = self.network.config.decoder_start_token_id
        return self._forward(torch.full((len(indices), 1), begin, device=device))

    def step(self, next_tokens: Tensor, kept: Sequence[int]) -> Tensor:
        if len(kept) < len(self.mask):
            indices = torch.tensor(kept, device=next_tokens.device)
            assert self.cache is not None
            self.cache.batch_select_indices(indices)
            self.states, self.mask = self.states[indices], self.mask[indices]
        return self._forward(next_tokens[:, None])

    def _forward(self, ids: Tensor) -> Tensor:
        """[B, V] logits after the tokens [B, 1]; their keys and values go into the cache."""
        out = self.network(
            encoder_outputs=self.form(last_hidden_state=self.states),
            attention_mask=self.mask,
            decoder_input_ids=ids,
            use_cache=True,
            **{self.cache_keyword: self.cache},
        )
        self.cache = getattr(out, self.cache_keyword)
        logits: Tensor = out.logits[:, -1]
        return logits


class UncachedDecoding(Decoding):
    """One row without a cache: every step computes it whole. Caches of these models mix rows."""

    many: ClassVar[bool] = False

    def start(self) -> Tensor:
        self.ids = torch.tensor(self.prompts, device=self.network.device)  # [1, T]
        return self._forward()

    def step(self, next_tokens: Tensor, kept: Sequence[int]) -> Tensor:
        self.ids = torch.cat([self.ids, next_tokens[:, None]], 1)
        return self._forward()

    def _forward(self) -> Tensor:
        self.reset_row_state()
        logits: Tensor = self.network(input_ids=self.ids, use_cache=False).logits[:, -1]
        return logits


class RuntimeDecoding(Decoding):
    """One row of an export, with the KV cache of its runtime."""

    many: ClassVar[bool] = False

    @classmethod
    @contextmanager
    def set_attention(cls, network: Any) -> Iterator[None]:
        yield

    def start(self) -> Tensor:
        return torch.from_numpy(self.network.runtime.start(self.prompts[0]))[None]

    def step(self, next_tokens: Tensor, kept: Sequence[int]) -> Tensor:
        return torch.from_numpy(self.network.runtime.step(int(next_tokens[0])))[None]


def _distinct(prompts: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """(the prompts without repetitions, the index there of each)."""
    distinct = list(dict.fromkeys(prompts))
    number = {prompt: index for index, prompt in enumerate(distinct)}
    return distinct, [number[prompt] for prompt in prompts]


def _prompt_example(prompt: tuple[int, ...]) -> Example:
    """The prompt as an example whose hidden state is read at the last token."""
    ids, at = np.array(prompt, np.int64), np.array([len(prompt) - 1])
    return Example("", (Row(ids, at, np.zeros(1, np.int64), np.ones(1, np.float32)),))
