"""Batch in, scores out: the one module whose forward is what training differentiates.

It is an `nn.Module` whose `forward` is the whole computation, so data-parallel wrappers can hold it. How a model
is run is decided once, on load, by `models.probe` and recorded as a `Fit`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bottega.batch import Batch, EncoderInput, Example, Row
from bottega.errors import BottegaError, ModelError, is_out_of_memory
from bottega.models import heads
from bottega.models.attention import make_encoder_decoder_layouts, make_layout
from bottega.models.attention.mask import pad_tree, round_length
from bottega.models.embedding_noise import EmbeddingNoise, row_lengths
from bottega.models.generation_config import make_saveable
from bottega.models.heads import Head, ScoreOptions, from_logits
from bottega.models.own_head import own_head_logits
from bottega.models.row_state import RowState
from bottega.objectives import HeadKind
from bottega.packing import divide, pack
from bottega.progress import ProgressCallback

if TYPE_CHECKING:
    from bottega.adapters import AdaptedModel

MAX_SCORED_TOKENS = 8192
"""Most tokens scored at once, where no gradient is wanted."""


@dataclass(frozen=True)
class Fit:
    """How a model may be computed exactly.

    packed    many rows in one flat sequence (else one row a forward, with the model's own attention)
    own_head  scores from the model's own forward, because its head is not one of those known here
    reason    why not the fast way, in words; empty when both are fast
    fused     names of the classes of its modules that have a faster forward, equal by proof
    """

    packed: bool = True
    own_head: bool = False
    reason: str = ""
    fused: Sequence[str] = ()


class Scorer(nn.Module):
    """`forward(batch, outputs)` returns the outputs asked for, [N, …] in float32 or wider, by name.

    Which there are, the model's head says (`models.heads`), and those of `extra`, which are attached to the same model.
    `width` is that of the embeddings of texts, once there were any.
    """

    def __init__(self, model: nn.Module, head: HeadKind | Head, fit: Fit, extra: Sequence[str] = ()) -> None:
        super().__init__()
        self.model, self.fit = model, fit
        self.head = head if isinstance(head, Head) else heads.load(head)
        self.extra = [heads.load(kind) for kind in extra]
        self.adapted: AdaptedModel | None = None
        self.noise: EmbeddingNoise | None = None
        self.width: int | None = None
        self._mode: bool | None = None
        self._afresh: RowState | None = None

    def add_noise(self, alpha: float) -> None:
        """From now on, while training, the embeddings of tokens are noisy."""
        network = self.network
        parts = [network.get_encoder(), network.get_decoder()] if network.config.is_encoder_decoder else [network]
        # An encoder and its decoder may look up in one module, or each in one of its own with the same weights.
        self.noise = EmbeddingNoise(list(dict.fromkeys(part.get_input_embeddings() for part in parts)), alpha)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but where it was the last thing asked for not a thousand modules are told."""
        if self._mode == mode and self.network.training == mode:
            return self
        self._mode = mode
        return super().train(mode)

    @property
    def network(self) -> Any:
        """The transformers model, whether or not an adapter wraps it."""
        return self.model if self.adapted is None else self.adapted.network

    @property
    def library(self) -> str:
        """The library that loads what `save` wrote."""
        return "transformers" if self.adapted is None else self.adapted.library

    def save(self, folder: Path) -> None:
        """Write the model, or its adapter, such that transformers or the adapter's library loads it."""
        make_saveable(self.network)
        if self.adapted is None:
            self.network.save_pretrained(str(folder))
        else:
            self.adapted.save(folder)

    def afresh(self) -> None:
        """Have the network compute what comes next as if it were the first.

        Whoever computes with it by other ways than this scorer must call this before, too: what the network is at the
        first call counts as fresh. That is not when the scorer is made, for a model still gets its adapter then.
        """
        self._afresh = self._afresh or RowState(self.network)
        self._afresh()

    def forward(
        self,
        batch: Batch,
        outputs: frozenset[str],
        *,
        weighted: bool = False,
        smoothing: float = 0.0,
        tempering: float = 1.0,
    ) -> dict[str, Tensor]:
        """The outputs; the options are those of `ScoreOptions`."""
        options = ScoreOptions(weighted, smoothing, tempering)
        if self.fit.own_head and not self.head.is_bare:
            scores = from_logits(self._own_logits(batch), batch, outputs & self.head.outputs, options)
            states = self._states(batch, 0) if self._wanted_of_extra(outputs) else None
        else:
            # A matrix library keeps a kernel for each shape it meets, so the head over a vocabulary sees few of them.
            padding = round_length(len(batch.at)) - len(batch.at) if self.head.over_vocabulary else 0
            states = self._states(batch, padding)  # [N + padding, H]
            scores = self.head.scores(self.network, states, batch, outputs & self.head.outputs, options)
        for head in self._wanted_of_extra(outputs):
            assert states is not None
            scores |= head.scores(self.network, states[: len(batch.at)], batch, outputs & head.outputs, options)
        if "hidden" in scores:
            self.width = scores["hidden"].shape[-1]
        return scores

    def _wanted_of_extra(self, outputs: frozenset[str]) -> list[Head]:
        return [head for head in self.extra if head.outputs & outputs]

    def _states(self, batch: Batch, padding: int) -> Tensor:
        """[N + padding, H] the hidden states that the batch reads; padding repeats the first."""
        return self._hidden(batch).index_select(0, F.pad(batch.at, (0, padding)) if padding else batch.at)

    def _hidden(self, batch: Batch, *, whole: bool = False) -> Tensor:
        """[T, H] final hidden states of the flat sequence, right wherever the batch reads them, or everywhere."""
        if batch.source is not None:
            return self._across(batch, batch.source)
        base = self.network.base_model
        # What is read decides what a last layer must compute, where it can tell (models.fused.last).
        few = not self.head.reads_everywhere and self.fit.packed and not whole
        read = {"read": torch.unique(batch.at)} if few else {}
        return torch.cat(
            [
                _check_one_per_token(self._run(base, **call, **read).last_hidden_state, call)
                for call in self._calls(batch)
            ]
        )

    def _across(self, batch: Batch, source: EncoderInput) -> Tensor:
        """[T, H] of the decoder of an encoder–decoder."""
        encoder, decoder = self.network.get_encoder(), self.network.get_decoder()
        if not self.fit.packed:
            found = []
            for call in self._calls(batch):
                states = self._run(encoder, input_ids=call["input_ids"]).last_hidden_state
                target = {"input_ids": call["decoder_input_ids"], "use_cache": False}
                found.append(self._computed(decoder, encoder_hidden_states=states, **target).last_hidden_state[0])
            return torch.cat(found)
        batch, source = pad_tree(batch), pad_tree(source)
        of_source, of_target, across = make_encoder_decoder_layouts(batch, source)
        self._tell_noise(source)
        states = encoder(input_ids=source.tokens[None], layout=of_source).last_hidden_state
        self._tell_noise(batch)
        target = {"input_ids": batch.tokens[None], "layout": of_target, "cross_layout": across, "use_cache": False}
        return cast(Tensor, decoder(encoder_hidden_states=states, **target).last_hidden_state[0])

    def _tell_noise(self, stream: Batch | EncoderInput) -> None:
        """How long the rows are whose embeddings come next."""
        if self.noise is not None:
            lengths = row_lengths(stream.nodes, len(stream.tokens))
            self.noise.lengths = torch.from_numpy(lengths)[None].to(stream.tokens.device)

    def _own_logits(self, batch: Batch) -> Tensor:
        if self.fit.packed and self.head.per_row:
            return self._headed_by_row(batch)
        if self.fit.packed:
            (call,) = self._calls(batch)
            if self.head.reads_everywhere:
                return cast(Tensor, self.network(**call, logits_to_keep=batch.at).logits[0])
            return cast(Tensor, self.network(**call).logits[0].index_select(0, batch.at))
        if not self.head.per_row:
            logits = [_check_one_per_token(self._run(self.network, **call).logits, call) for call in self._calls(batch)]
            return torch.cat(logits).index_select(0, batch.at)
        logits = [self._run(self.network, **call).logits[0] for call in self._calls(batch)]
        # One [C] a row, and rows stand in the flat sequence in node order.
        start = torch.from_numpy(batch.nodes.start).to(batch.at.device)
        return torch.stack(logits).index_select(0, torch.searchsorted(start, batch.at, right=True) - 1)

    def _headed_by_row(self, batch: Batch) -> Tensor:
        """[N, C] of all rows computed together but for their head, which sees the states of its row as if alone."""
        hidden, nodes = self._hidden(batch, whole=True), batch.nodes
        ends = np.searchsorted(nodes.start, batch.at.cpu().numpy(), side="right") - 1
        places = (torch.from_numpy(nodes.path(int(end))).to(hidden.device) for end in ends)
        return torch.stack([own_head_logits(self.network, hidden[row], batch.tokens[row]) for row in places])

    def _run(self, part: Any, **call: Any) -> Any:
        """What a part of the model makes of a call; of a row by itself, as if it were the first."""
        if self.fit.packed:
            return part(**call)
        self.afresh()
        return self._computed(part, **call)

    def _computed(self, part: Any, **call: Any) -> Any:
        """What a part makes of a row by itself.

        Raises ModelError where the model's own code fails: some need texts of a least length.
        """
        try:
            return part(**call)
        except Exception as error:
            if isinstance(error, (BottegaError, OSError)) or is_out_of_memory(error) or "CUDA" in str(error):
                raise
            tokens = call["input_ids"].shape[1]
            raise ModelError(
                f"it does not compute a text of {tokens} tokens: {type(error).__name__}: {error}",
                where=f"{type(part).__name__} of transformers",
                fix="leave out rows of such a length, if others are computed, or take another model",
            ) from error

    def _calls(self, batch: Batch) -> list[dict[str, Any]]:
        """Keyword arguments of each forward: one for the whole batch, or one a row."""
        if not self.fit.packed:
            spans = zip(batch.nodes.start, batch.nodes.end, strict=True)
            rows = [batch.tokens[None, a:b] for a, b in spans]
            if batch.source is None:
                return [{"input_ids": row, "use_cache": False} for row in rows]
            read, nodes = batch.source.tokens, batch.source.nodes
            texts = [read[None, nodes.start[text] : nodes.end[text]] for text in batch.source.of]
            return [
                {"input_ids": text, "decoder_input_ids": row, "use_cache": False}
                for text, row in zip(texts, rows, strict=True)
            ]
        batch = pad_tree(batch)
        position = batch.position + first_position_id(self.network)
        layout = make_layout(batch)
        self._tell_noise(batch)
        return [{"input_ids": batch.tokens[None], "position_ids": position[None], "layout": layout, "use_cache": False}]


def check_token_ids(config: Any, most: int, where: str) -> None:
    """A ModelError where `most`, the largest of some token ids, has no embedding in a model of this config.

    Asked of what is read, not of the tokenizer: many have tokens, as those that pad, which no text makes. Canine has
    no vocabulary, and takes any.
    """
    known = getattr(config.get_text_config(), "vocab_size", None)
    if known is not None and most >= known:
        raise ModelError(
            f"the tokenizer makes token {most}, and the model has a vocab_size of {known}",
            where=where,
            fix="use the tokenizer the model was trained with, or a larger vocab_size",
        )


def score_batches(
    rows: Sequence[Row], scorer: Scorer, far: ProgressCallback | None = None
) -> Iterator[tuple[list[int], Batch]]:
    """The rows in batches that fit, each with the numbers of its rows; rows share what they begin with."""
    done = 0
    examples = [Example(str(number), (row,)) for number, row in enumerate(rows)]
    device = str(next(scorer.model.parameters()).device)
    read = (ids for row in rows for ids in (row.tokens, row.source) if ids is not None)
    config = scorer.network.config
    check_token_ids(config, max((int(ids.max(initial=-1)) for ids in read), default=-1), config.name_or_path)
    for group in divide(examples, MAX_SCORED_TOKENS, share=scorer.fit.packed) if examples else ():
        yield [int(one.id) for one in group], pack(group, share=scorer.fit.packed).to(device)
        done += len(group)
        if far is not None:
            far(done, len(rows))


def _check_one_per_token(found: Tensor, call: dict[str, Any]) -> Tensor:
    """[1, n, …] → [T, …] of the tokens of a call: Perceiver answers for all places it has, whether taken or not."""
    total = call.get("decoder_input_ids", call["input_ids"]).shape[1]
    if found.shape[1] < total:
        raise ModelError(
            f"it gives {found.shape[1]} results for {total} tokens, and says not which is whose",
            where="model",
            fix="use a model that gives one for each token",
        )
    return found[0, :total]


def first_position_id(network: Any) -> int:
    """The number of a row's first position: RoBERTa and its kin count from after the padding index."""
    embeddings = getattr(network.base_model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
