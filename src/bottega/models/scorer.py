"""Batch in, scores out: the one module whose forward is what training differentiates.

It is an `nn.Module` whose `forward` is the whole computation, so data-parallel wrappers can hold it. How a model is
computed is decided once, on load, by `models.packing_proof` and stored in the run as a `Fit`.
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
from bottega.models.embedding_noise import EmbeddingNoise, row_lengths
from bottega.models.generation_config import make_saveable
from bottega.models.heads import Head, ScoreOptions, from_logits
from bottega.models.own_head import own_head_logits
from bottega.models.row_state import RowState
from bottega.objectives import HeadKind
from bottega.packing import pack, pad_tree, put_before, round_length, split_into_micro_batches
from bottega.progress import ProgressCallback

if TYPE_CHECKING:
    from bottega.adapters import AdaptedModel

# Tokens per batch where no gradient is needed.
MAX_SCORED_TOKENS = 8192


@dataclass(frozen=True)
class Fit:
    """How a model can be computed exactly. Its fields are stored in run folders.

    packed    many rows in one flat sequence; else one row per forward, with the model's own attention
    own_head  scores come from the model's own forward, because its head computes more than the ones here
    reason    why not the fast way, in words; empty if both are fast
    fused     names of the module classes for which a fused forward is proved equal
    native    operators in C++ compute what fits them
    """

    packed: bool = True
    own_head: bool = False
    reason: str = ""
    fused: Sequence[str] = ()
    native: bool = False


class Scorer(nn.Module):
    """`forward(batch, outputs)` returns the requested outputs by name, [N, …] each, in float32 or wider.

    The outputs are those of the model's head (`models.heads`) and of the `extra` heads attached to the same model.
    `embedding_width` is the width of text embeddings, once some were computed.
    """

    def __init__(self, model: nn.Module, head: HeadKind | Head, fit: Fit, extra: Sequence[str] = ()) -> None:
        super().__init__()
        self.model, self.fit = model, fit
        self.head = head if isinstance(head, Head) else heads.load(head)
        self.extra = [heads.load(kind) for kind in extra]
        self.adapted: AdaptedModel | None = None
        self.noise: EmbeddingNoise | None = None
        self.embedding_width: int | None = None
        self._mode: bool | None = None
        self._row_state: RowState | None = None

    def add_noise(self, alpha: float) -> None:
        """Add noise to token embeddings in training mode from now on (NEFTune)."""
        network = self.network
        parts = [network.get_encoder(), network.get_decoder()] if network.config.is_encoder_decoder else [network]
        # Encoder and decoder may share one embedding module, or have one each with tied weights: each gets one hook.
        self.noise = EmbeddingNoise(list(dict.fromkeys(part.get_input_embeddings() for part in parts)), alpha)

    def train(self, mode: bool = True) -> Self:
        """`nn.Module.train`, skipped if nothing changes: it walks over every module, and is called for every batch."""
        # The network's own flag as well, since generation switches it without the scorer.
        if self._mode == mode and self.network.training == mode:
            return self
        self._mode = mode
        return super().train(mode)

    @property
    def network(self) -> Any:
        """The transformers model, whether or not an adapter wraps it."""
        return self.model if self.adapted is None else self.adapted.network

    def prefix(self) -> tuple[int, ...]:
        """Token ids that the adapter puts before every text."""
        return () if self.adapted is None else self.adapted.prefix

    def mark_prompt(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """A prompt as the network must get it; see `AdaptedModel.mark_prompt`."""
        return ids if self.adapted is None else self.adapted.mark_prompt(ids)

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

    def reset_row_state(self) -> None:
        """Make the network forget the rows it has computed, so that the next one is computed as if it were the first.

        Code that runs the network without this scorer must call this before it does.
        """
        # The state at the first call counts as fresh. Not that at construction: an adapter may be installed after it.
        self._row_state = self._row_state or RowState(self.network)
        self._row_state.restore()

    def forward(
        self,
        batch: Batch,
        outputs: frozenset[str],
        *,
        weighted: bool = False,
        smoothing: float = 0.0,
        temperature: float = 1.0,
    ) -> dict[str, Tensor]:
        """The requested outputs; for the options see `ScoreOptions`."""
        options = ScoreOptions(weighted, smoothing, temperature)
        if self.adapted is not None:
            batch = self.adapted.mark_batch(batch)
        batch = put_before(batch, self.prefix(), shared=self.fit.packed)
        if self.fit.own_head and not self.head.is_bare:
            scores = from_logits(self._own_logits(batch), batch, outputs & self.head.outputs, options)
            # Extra heads read hidden states, which the model's own forward does not return.
            states = self._states(batch, 0) if self._requested_extra_heads(outputs) else None
        else:
            # A matrix library compiles and keeps a kernel for each shape, so a head over the vocabulary gets rounded
            # lengths.
            padding = round_length(len(batch.at)) - len(batch.at) if self.head.over_vocabulary else 0
            states = self._states(batch, padding)  # [N + padding, H]
            scores = self.head.scores(self.network, states, batch, outputs & self.head.outputs, options)
        for head in self._requested_extra_heads(outputs):
            assert states is not None
            scores |= head.scores(self.network, states[: len(batch.at)], batch, outputs & head.outputs, options)
        if "hidden" in scores:
            self.embedding_width = scores["hidden"].shape[-1]
        return scores

    def _requested_extra_heads(self, outputs: frozenset[str]) -> list[Head]:
        return [head for head in self.extra if head.outputs & outputs]

    def _states(self, batch: Batch, padding: int) -> Tensor:
        """[N + padding, H] hidden states at the positions read; padding repeats those of token 0."""
        return self._hidden(batch).index_select(0, F.pad(batch.at, (0, padding)) if padding else batch.at)

    def _hidden(self, batch: Batch, *, whole: bool = False) -> Tensor:
        """[T, H] final hidden states of the flat sequence.

        whole  they are valid everywhere, not only at the positions read
        """
        if batch.source is not None:
            return self._decoder_states(batch, batch.source)
        base = self.network.base_model
        # `kernels.encoder_layer` then computes the last layer at these positions alone.
        reads_few = not self.head.reads_everywhere and self.fit.packed and not whole
        read = {"read": torch.unique(batch.at)} if reads_few else {}
        return torch.cat(
            [
                _check_one_per_token(self._run(base, **call, **read).last_hidden_state, call)
                for call in self._calls(batch)
            ]
        )

    def _decoder_states(self, batch: Batch, source: EncoderInput) -> Tensor:
        """[T, H] final hidden states of the decoder of an encoder–decoder."""
        encoder, decoder = self.network.get_encoder(), self.network.get_decoder()
        if not self.fit.packed:
            rows = []
            for call in self._calls(batch):
                states = self._run(encoder, input_ids=call["input_ids"]).last_hidden_state
                target = {"input_ids": call["decoder_input_ids"], "use_cache": False}
                # The encoder's call has reset the row state; a second reset would forget what it did for this row.
                rows.append(self._call_part(decoder, encoder_hidden_states=states, **target).last_hidden_state[0])
            return torch.cat(rows)
        batch, source = pad_tree(batch), pad_tree(source)
        encoder_layout, decoder_layout, cross_layout = make_encoder_decoder_layouts(
            batch, source, native=self.fit.native
        )
        self._set_noise_lengths(source)
        states = encoder(input_ids=source.tokens[None], layout=encoder_layout).last_hidden_state
        self._set_noise_lengths(batch)
        layouts = {"layout": decoder_layout, "cross_layout": cross_layout}
        target = {"input_ids": batch.tokens[None], **layouts, "use_cache": False}
        return cast(Tensor, decoder(encoder_hidden_states=states, **target).last_hidden_state[0])

    def _set_noise_lengths(self, stream: Batch | EncoderInput) -> None:
        """Pass the row lengths of the tokens that are embedded next; the noise depends on them."""
        if self.noise is not None:
            lengths = row_lengths(stream.nodes, len(stream.tokens))
            self.noise.lengths = torch.from_numpy(lengths)[None].to(stream.tokens.device)

    def _own_logits(self, batch: Batch) -> Tensor:
        """[N, V or C] logits from the model's own forward, head and all."""
        if self.fit.packed and self.head.per_row:
            return self._own_logits_by_row(batch)
        if self.fit.packed:
            (call,) = self._calls(batch)
            if self.head.reads_everywhere:
                # transformers takes a tensor of positions here: the head is computed at those alone.
                return cast(Tensor, self.network(**call, logits_to_keep=batch.at).logits[0])
            return cast(Tensor, self.network(**call).logits[0].index_select(0, batch.at))
        if not self.head.per_row:
            logits = [_check_one_per_token(self._run(self.network, **call).logits, call) for call in self._calls(batch)]
            return torch.cat(logits).index_select(0, batch.at)
        logits = [self._run(self.network, **call).logits[0] for call in self._calls(batch)]
        # One [C] per row; rows stand in the flat sequence in the order of their nodes.
        start = torch.from_numpy(batch.nodes.start).to(batch.at.device)
        return torch.stack(logits).index_select(0, torch.searchsorted(start, batch.at, right=True) - 1)

    def _own_logits_by_row(self, batch: Batch) -> Tensor:
        """[N, C] of a body computed packed, and a head called once per row with the states of that row alone."""
        hidden, nodes = self._hidden(batch, whole=True), batch.nodes  # [T, H]
        last_nodes = np.searchsorted(nodes.start, batch.at.cpu().numpy(), side="right") - 1
        paths = (torch.from_numpy(nodes.path(int(node))).to(hidden.device) for node in last_nodes)
        return torch.stack([own_head_logits(self.network, hidden[path], batch.tokens[path]) for path in paths])

    def _run(self, part: Any, **call: Any) -> Any:
        """The output of a part of the model; a row computed alone is computed as if it were the first."""
        if self.fit.packed:
            return part(**call)
        self.reset_row_state()
        return self._call_part(part, **call)

    def _call_part(self, part: Any, **call: Any) -> Any:
        """The output of a part of the model for one row.

        Raises ModelError if the model's own code fails: some cannot compute texts below a length.
        """
        try:
            return part(**call)
        except Exception as error:
            # Errors of bottega, of memory, files and CUDA have handlers of their own further up.
            if isinstance(error, (BottegaError, OSError)) or is_out_of_memory(error) or "CUDA" in str(error):
                raise
            tokens = call["input_ids"].shape[1]
            raise ModelError(
                f"it cannot compute a text of {tokens} tokens: {type(error).__name__}: {error}",
                where=f"{type(part).__name__} of transformers",
                fix="leave out rows of this length if others work, or use another model",
            ) from error

    def _calls(self, batch: Batch) -> list[dict[str, Any]]:
        """Keyword arguments of each forward: one for the whole batch, or one per row."""
        if not self.fit.packed:
            spans = zip(batch.nodes.start, batch.nodes.end, strict=True)
            rows = [batch.tokens[None, a:b] for a, b in spans]
            if batch.source is None:
                return [{"input_ids": row, "use_cache": False} for row in rows]
            source_tokens, nodes = batch.source.tokens, batch.source.nodes
            texts = [source_tokens[None, nodes.start[text] : nodes.end[text]] for text in batch.source.text_of_node]
            return [
                {"input_ids": text, "decoder_input_ids": row, "use_cache": False}
                for text, row in zip(texts, rows, strict=True)
            ]
        batch = pad_tree(batch)
        position = batch.position + first_position_id(self.network)
        layout = make_layout(batch, native=self.fit.native)
        self._set_noise_lengths(batch)
        return [{"input_ids": batch.tokens[None], "position_ids": position[None], "layout": layout, "use_cache": False}]


def check_token_ids(config: Any, largest: int, where: str) -> None:
    """A ModelError if `largest`, the largest token id of some rows, has no embedding in a model of this config."""
    # Checked for the rows and not for the tokenizer: many have tokens, such as padding, that no text contains. Canine
    # has no vocabulary and takes any id.
    vocab_size = getattr(config.get_text_config(), "vocab_size", None)
    if vocab_size is not None and largest >= vocab_size:
        raise ModelError(
            f"the tokenizer produces token {largest}, but the model's vocab_size is {vocab_size}",
            where=where,
            fix="use the tokenizer the model was trained with, or a larger vocab_size",
        )


def score_batches(
    rows: Sequence[Row], scorer: Scorer, progress: ProgressCallback | None = None
) -> Iterator[tuple[list[int], Batch]]:
    """The rows in batches of `MAX_SCORED_TOKENS`, each with the indices of its rows; rows share their prefixes."""
    done = 0
    examples = [Example(str(index), (row,)) for index, row in enumerate(rows)]
    device = str(next(scorer.model.parameters()).device)
    token_ids = (ids for row in rows for ids in (row.tokens, row.source) if ids is not None)
    config = scorer.network.config
    check_token_ids(config, max((int(ids.max(initial=-1)) for ids in token_ids), default=-1), config.name_or_path)
    for group in split_into_micro_batches(examples, MAX_SCORED_TOKENS, share=scorer.fit.packed) if examples else ():
        yield [int(example.id) for example in group], pack(group, share=scorer.fit.packed).to(device)
        done += len(group)
        if progress is not None:
            progress(done, len(rows))


def _check_one_per_token(states: Tensor, call: dict[str, Any]) -> Tensor:
    """[1, n, …] → [T, …] of the T tokens of a call; a ModelError if the model returns fewer results than tokens."""
    total = call.get("decoder_input_ids", call["input_ids"]).shape[1]
    if states.shape[1] < total:
        raise ModelError(
            f"it returns {states.shape[1]} results for {total} tokens, so they cannot be assigned to tokens",
            where="model",
            fix="use a model that returns one result per token",
        )
    # More are no fault: Perceiver returns one for every position it has, used or not.
    return states[0, :total]


def first_position_id(network: Any) -> int:
    """Position id of a row's first token: RoBERTa and its relatives count from the padding index + 1."""
    embeddings = getattr(network.base_model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
