"""Contrastive learning of embeddings, with in-batch negatives (InfoNCE; Oord et al. 2018, arXiv 1807.03748)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from zlib import crc32

import numpy as np
from pydantic import Field

from bottega.batch import Batch, Example, Loss, Row, Term
from bottega.errors import RecipeError
from bottega.objectives import SKIPPED_METRIC, HeadKind, Objective, Output, Pooling
from bottega.objectives._embeddings import Ranking, pooled_row, positive_mask, split_candidates
from bottega.plugins import load_class_from_file, locate_user_errors
from bottega.records import Compared, Paired, Record, Unusable

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec

EXAMPLE = "class Distance(torch.nn.Module): def forward(self, output1, output2, label): return …"


class Contrastive(Objective):
    """Contrastive learning: −log softmax(cosine / temperature)[positive] among all candidates of the update.

    A mean over anchors. Candidates are the positives and negatives of the whole update, however it is divided into
    micro-batches, except those known to belong to the anchor too: the same text as the anchor or its positive, a text
    that another row pairs with the same anchor, a row of the same `label`. Texts are the same if their tokens are.
    Pairs with a score train their cosine directly, as `compare` says.
    """

    reads: ClassVar[tuple[type, ...]] = (Paired, Compared)
    head: ClassVar[HeadKind] = "embedding"
    outputs: ClassVar[frozenset[Output]] = frozenset({"hidden"})
    joint: ClassVar[bool] = True
    lr: ClassVar[tuple[float, float]] = (2e-5, 2e-4)

    kind: Literal["contrastive"] = "contrastive"
    pooling: Pooling = Field(
        "mean", description="What the embedding of a text is: the mean over its tokens, the first, or the last of them."
    )
    temperature: float = Field(
        0.05, gt=0, description="Divides the cosines; the smaller, the more the hardest negatives count."
    )
    symmetric: bool = Field(False, description="Rank the anchors for each positive, too, and take the mean of both.")
    compare: Literal["squared", "margin"] = Field(
        "squared",
        description="Loss of a pair with a score: (cosine - score)² (Reimers and Gurevych 2019, arXiv 1908.10084); or, "
        "with d = 1 - cosine, score · d² + (1 - score) · max(0, margin - d)² (Hadsell et al. 2006).",
    )
    margin: float = Field(0.5, gt=0, description="Distance from which on a dissimilar pair has no loss, for `margin`.")
    file: str | None = Field(
        None,
        description="Instead of all that: a Python file with a torch.nn.Module, called with (output1, output2, label): "
        "the embeddings [P, H] of pairs and their similarity [P]. It returns their losses [P], or the mean.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Arguments of the module's constructor.")

    @property
    def pooling_mode(self) -> Pooling:
        return self.pooling

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        with codec.track_truncation() as truncation:
            (rows,) = self.evaluation_rows(record, codec)
        assert isinstance(record, (Paired, Compared))
        # A text paired with itself teaches only through dropout (SimCSE), so it must be meant: the same before
        # tokenization, and not merely cut to the same tokens.
        is_intended = isinstance(record, Paired) and record.anchor == record.positive
        if np.array_equal(rows[0].tokens, rows[1].tokens) and not is_intended:
            raise Unusable("the two texts are the same in every token" + truncation.note)
        return [rows]

    def evaluation_rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, (Paired, Compared))
        rows = [pooled_row(codec, record.where, text, self.pooling) for text in record.texts]
        columns = _paired_columns(record, rows) if isinstance(record, Paired) else _compared_columns(record, rows)
        return [tuple(replace(row, columns=own) for row, own in zip(rows, columns, strict=True))]

    def is_informative(self, examples: Sequence[Example]) -> bool:
        rows = [row for example in examples for row in example.rows]
        columns = {name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns}
        if self.file is not None or columns["compared"].any():
            return True
        # Where every candidate belongs to every anchor, softmax over the one that is left is 1 and its gradient 0.
        return any(not positive_mask(columns, *ranking).all() for ranking in self._rankings(columns))

    def _rankings(self, columns: Mapping[str, np.ndarray]) -> list[Ranking]:
        """Anchors among candidates and, with `symmetric`, positives among anchors."""
        forward = split_candidates(columns)
        positives = forward.candidates[forward.positive]
        backward = Ranking(positives, forward.queries, np.arange(len(forward.queries)))
        return [forward, *([backward] if self.symmetric else [])]

    def closing_note(self, updates: Sequence[Mapping[str, float]]) -> str:
        skipped = int(sum(metrics.get(SKIPPED_METRIC, 0) for metrics in updates))
        why = "in which every text belongs to every other, and there was nothing to learn"
        return f"{skipped} selections of examples were skipped, {why}" if skipped else ""

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        vectors = batch.mean_rows(scores["hidden"])  # [R, H]; with `first` and `last` a row is read at one token
        if self._module is not None:
            return self._module_loss(vectors, batch)
        from torch.nn.functional import normalize

        vectors = normalize(vectors, dim=1)
        terms, metrics = dict[str, Term](), dict[str, Term]()
        if (batch.columns["anchor"] > 0).any():
            terms["nce"], metrics["accuracy"] = self._ranking_loss(vectors, batch)
        if (batch.columns["compared"] > 0).any():
            terms["apart"] = self._similarity_loss(vectors, batch)
        return Loss(terms, metrics=metrics)

    def _ranking_loss(self, vectors: Tensor, batch: Batch) -> tuple[Term, Term]:
        """(InfoNCE loss, accuracy at 1 over the anchors that have a negative), from vectors [R, H]."""
        import torch

        columns = {name: column.cpu().numpy() for name, column in batch.columns.items()}
        ranked = [self._rank(vectors, columns, ranking) for ranking in self._rankings(columns)]
        nll = torch.stack([nll for nll, _, _ in ranked]).mean(0)  # [A]
        _, is_nearest, has_negative = ranked[0]
        # An anchor whose only candidate is its positive is always right, which says nothing: left out of the accuracy.
        # The unit counts all anchors, so the sum is scaled up to them.
        scale = len(is_nearest) / has_negative.sum().clamp(min=1)
        return Term(nll.sum(), "anchor"), Term((is_nearest & has_negative).sum() * scale, "anchor")

    def _rank(
        self, vectors: Tensor, columns: Mapping[str, np.ndarray], ranking: Ranking
    ) -> tuple[Tensor, Tensor, Tensor]:
        """([A] −log softmax of the positive, [A] whether it is the nearest, [A] whether there is a negative)."""
        import torch

        queries, candidates, positive = ranking
        excluded = positive_mask(columns, *ranking)  # [A, O]
        excluded[np.arange(len(positive)), positive] = False
        has_negative = torch.from_numpy(excluded.sum(1) < len(candidates) - 1).to(vectors.device)
        mask, label = (torch.from_numpy(array).to(vectors.device) for array in (excluded, positive))
        logits = (vectors[queries] @ vectors[candidates].T / self.temperature).masked_fill(mask, -torch.inf)  # [A, O]
        nll = torch.nn.functional.cross_entropy(logits, label, reduction="none")
        return nll, logits.argmax(1) == label, has_negative

    def _similarity_loss(self, vectors: Tensor, batch: Batch) -> Term:
        """The loss of pairs with a score, from vectors [R, H]."""
        first, second = self._pairs(batch, "compared")
        cosine, score = (vectors[first] * vectors[second]).sum(1), batch.columns["score"][second]  # [P]
        if self.compare == "squared":
            loss = (cosine - score) ** 2
        else:
            distance = 1 - cosine
            loss = score * distance**2 + (1 - score) * (self.margin - distance).clamp(min=0) ** 2
        return Term(loss.sum(), "compared")

    def _pairs(self, batch: Batch, column: str) -> tuple[Tensor, Tensor]:
        """([P] indices of the first row of each pair's example, [P] those of the row it is paired with)."""
        import torch

        second = (batch.columns[column] > 0).nonzero()[:, 0]
        # Rows of an example are adjacent, so its first row is where its index first occurs.
        first = torch.searchsorted(batch.example, batch.example[second].contiguous())
        return first, second

    def _module_loss(self, vectors: Tensor, batch: Batch) -> Loss:
        first, second = self._pairs(batch, "pair")
        assert self.file is not None
        assert self._module is not None
        with locate_user_errors(self.file):
            loss = self._module(vectors[first], vectors[second], batch.columns["score"][second].to(vectors.dtype))
        if loss.dim() > 1 or loss.numel() not in (1, len(first)):
            raise RecipeError(
                f"the module returned a loss of shape {list(loss.shape)} for {len(first)} pairs",
                where=self.file,
                fix="return a loss for each pair, [P], or their mean",
            )
        # A mean times the pairs is a sum, as a term needs it.
        return Loss({"module": Term(loss.sum() if loss.numel() == len(first) else loss.sum() * len(first), "pair")})

    @cached_property
    def _module(self) -> Any:
        """The user's torch module; None if there is no `file`."""
        if self.file is None:
            return None
        from torch import nn

        module_class = load_class_from_file(self.file, nn.Module, EXAMPLE)
        with locate_user_errors(self.file):
            module = module_class(**self.options)
        if any(weight.requires_grad for weight in module.parameters()):
            raise RecipeError(
                "the module has trainable weights, which nothing would train", where=self.file, fix=EXAMPLE
            )
        return module


# Columns of a row, one value each:
#   anchor, positive  the row is its example's anchor, or its positive
#   compared          the second row of a pair with a score
#   pair              any row but an example's first: it is compared with the first
#   score             similarity to the first row: 1 of a positive, 0 of a negative
#   text              hash of the tokens
#   group             hash of what belongs together: the label or, without one, the positive
#   anchor_text       hash of the anchor's tokens, which another row may pair with another positive


def _paired_columns(record: Paired, rows: Sequence[Row]) -> list[dict[str, np.ndarray]]:
    """Columns of an anchor, its positive and its negatives."""
    text = [crc32(row.tokens.tobytes()) for row in rows]
    # A label may hold unpaired surrogates, read from a damaged file.
    group = text[1] if record.label is None else crc32(f"label {record.label}".encode(errors="surrogatepass"))
    return [
        {
            "anchor": _flag(index == 0),
            "positive": _flag(index == 1),
            "compared": _flag(False),
            "pair": _flag(index > 0),
            "score": np.array([float(index == 1)], np.float32),
            "text": np.array([text[index]]),
            # A negative belongs to nothing but what has the very same text.
            "group": np.array([group if index < 2 else text[index]]),
            "anchor_text": np.array([text[0] if index < 2 else text[index]]),
        }
        for index in range(len(rows))
    ]


def _compared_columns(record: Compared, rows: Sequence[Row]) -> list[dict[str, np.ndarray]]:
    """Columns of two texts with a score; no anchor ranks them, so what they belong to has no effect."""
    text = [crc32(row.tokens.tobytes()) for row in rows]
    return [
        {
            "anchor": _flag(False),
            "positive": _flag(False),
            "compared": _flag(index == 1),
            "pair": _flag(index == 1),
            "score": np.array([record.score if index == 1 else 0.0], np.float32),
            "text": np.array([text[index]]),
            "group": np.array([text[1]]),
            "anchor_text": np.array([text[0]]),
        }
        for index in range(2)
    ]


def _flag(value: bool) -> np.ndarray:
    return np.array([value], np.float32)
