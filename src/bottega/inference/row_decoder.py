"""Decoders of rows that join and leave at any time: what a scheduler drives.

`ContinuousDecoder` computes all rows together. `SerialDecoder` is for every other model: one row after the other.

Legend: B rows, V vocabulary, n tokens of a prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bottega.inference.decoding import Decoding, choose_decoding
from bottega.inference.generator import Writer
from bottega.inference.runtimes._network import RuntimeNetwork


@dataclass(eq=False)
class DecodedRow:
    """A row to decode.

    tokens      its prompt, and what was generated; the scheduler appends the next token after each step
    adapter     the adapter to compute it with
    all_logits  the logits after every token of the prompt are wanted, and not only after the last
    begins      the first token that is computed with the adapter; the decoder finds it when the row first joins
    """

    tokens: list[int]
    adapter: str | None = None
    all_logits: bool = False
    begins: int | None = None


@dataclass
class DecoderStep:
    """What one step of a decoder gives.

    rows     [B] the rows whose next token can be chosen
    logits   [B, V]
    prompts  (row, [n, V] logits after the next n tokens of its prompt) of rows with `all_logits`
    """

    rows: list[DecodedRow]
    logits: Tensor
    prompts: list[tuple[DecodedRow, Tensor]] = field(default_factory=list)


class RowDecoder(ABC):
    """Decodes rows step by step; called by one thread only.

    cached_tokens  tokens of prompts that did not have to be computed
    """

    cached_tokens: int = 0

    @abstractmethod
    def has_room(self, row: DecodedRow) -> bool:
        """Whether one more row can join now."""

    @abstractmethod
    def join(self, row: DecodedRow) -> None:
        """Add a row, which begins with all its tokens."""

    @abstractmethod
    def leave(self, row: DecodedRow) -> None:
        """Forget a row."""

    @abstractmethod
    def step(self) -> DecoderStep:
        """Compute something of the rows: the newest token of some, a part of the prompt of others."""

    @property
    def is_overfull(self) -> bool:
        """Whether the rows have outgrown their memory: one has to leave, and can join again later."""
        return False

    def close(self) -> None:
        """Give back what was changed in the network."""
        return


class SerialDecoder(RowDecoder):
    """One row at a time, for models that cannot compute several: exports, encoder–decoders, recurrent models.

    adapters  the folder of each adapter of an export, by name
    """

    def __init__(self, writer: Writer) -> None:
        self.network, self.adapters = writer.network, dict[str, Path]()
        self.reset_row_state = writer.reset_row_state
        self.kind = choose_decoding(self.network, packed=False)
        self.row: DecodedRow | None = None
        self.decoding: Decoding | None = None
        self._settings = ExitStack()
        self._settings.enter_context(self.kind.set_attention(self.network))
        self.network.eval()

    def has_room(self, row: DecodedRow) -> bool:
        return self.row is None

    def join(self, row: DecodedRow) -> None:
        assert self.row is None, "one row at a time"
        self.row, self.decoding = row, None

    def leave(self, row: DecodedRow) -> None:
        self.row = self.decoding = None

    @torch.inference_mode()
    def step(self) -> DecoderStep:
        row = self.row
        assert row is not None, "a step without a row"
        if self.decoding is not None:
            return DecoderStep(
                [row], self.decoding.step(torch.tensor([row.tokens[-1]], device=self.network.device), [0])
            )
        if isinstance(self.network, RuntimeNetwork) and self.adapters:
            self.network.runtime.use_adapter(None if row.adapter is None else self.adapters[row.adapter])
        prompts = [(row, self._all_logits(row.tokens))] if row.all_logits else []
        self.decoding = self.kind(self.network, [tuple(row.tokens)], self.reset_row_state)
        return DecoderStep([row], self.decoding.start(), prompts)

    def _all_logits(self, tokens: list[int]) -> Tensor:
        self.reset_row_state()
        ids = torch.tensor([tokens], device=self.network.device)
        call: dict[str, Any] = {} if isinstance(self.network, RuntimeNetwork) else {"use_cache": False}
        logits: Tensor = self.network(input_ids=ids, **call).logits[0]
        return logits

    def close(self) -> None:
        self._settings.close()
