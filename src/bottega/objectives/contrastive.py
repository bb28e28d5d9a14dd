"""Contrastive learning: texts that belong together near each other, others far (Oord et al. 2018, arXiv 1807.03748)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from zlib import crc32

import numpy as np
from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.errors import DataError, RecipeError
from bottega.objectives import HeadKind, Objective, Output
from bottega.plugins import defined, naming
from bottega.records import Compared, Paired, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.data.codec import Codec

Pooling = Literal["mean", "first", "last"]

MODULE = "class Distance(torch.nn.Module): def forward(self, output1, output2, label): return …"


class Contrastive(Objective):
    """Of pairs and triplets the mean of −log softmax(cosine / temperature) of the positive among all in the update.

    Candidates of an anchor are the positives and negatives of the whole update, however it is divided, but for those
    known to belong to it too: the same text as the anchor or its positive, or a row of the same `label`. Of texts with
    a score, what `compare` says of their cosine.

    pooling      what a text's vector is: the mean over its tokens, the first of them, or the last
    temperature  how much nearer counts
    symmetric    each positive also seeks its anchor among all anchors
    compare      squared: (cosine − score)² (Reimers and Gurevych 2019, arXiv 1908.10084); margin: score · d² +
                 (1 − score) · max(0, margin − d)² of d = 1 − cosine (Hadsell et al. 2006)
    file         instead of all that: a Python file with a torch.nn.Module that is called with (output1, output2,
                 label), the vectors [P, H] of pairs and how alike they are [P], and gives their loss, [P] or its mean
    options      what the module is made with
    """

    reads: ClassVar[tuple[type, ...]] = (Paired, Compared)
    head: ClassVar[HeadKind] = "embedding"
    outputs: ClassVar[frozenset[Output]] = frozenset({"hidden"})
    joint: ClassVar[bool] = True
    lr: ClassVar[tuple[float, float]] = (2e-5, 2e-4)

    kind: Literal["contrastive"] = "contrastive"
    pooling: Pooling = "mean"
    temperature: float = Field(0.05, gt=0)
    symmetric: bool = False
    compare: Literal["squared", "margin"] = "squared"
    margin: float = Field(0.5, gt=0)
    file: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, (Paired, Compared))
        anchored, texts = isinstance(record, Paired), record.texts
        scores = [0.0, record.score if isinstance(record, Compared) else 1.0, *[0.0] * (len(texts) - 2)]
        rows = [pooled(codec, record.where, text, self.pooling) for text in texts]
        label = record.label if isinstance(record, Paired) else None
        belongs = crc32(texts[1].encode() if label is None else f"label {label}".encode())
        return [
            tuple(
                replace(
                    row,
                    columns={
                        "anchor": _one(anchored and place == 0),
                        "positive": _one(anchored and place == 1),
                        "compared": _one(not anchored and place == 1),
                        "pair": _one(place > 0),
                        "score": np.array([scores[place]], np.float32),
                        "text": np.array([crc32(texts[place].encode())]),
                        # A negative belongs to nothing but what has the very same text.
                        "belongs": np.array([belongs if place < 2 else crc32(texts[place].encode())]),
                    },
                )
                for place, row in enumerate(rows)
            )
        ]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        vectors = batch.mean_rows(scores["hidden"])
        if self._module is not None:
            return self._by_module(vectors, batch)
        from torch.nn.functional import normalize

        vectors = normalize(vectors, dim=1)
        anchors, compared = batch.columns["anchor"] > 0, batch.columns["compared"] > 0
        terms, metrics = dict[str, Term](), dict[str, Term]()
        if anchors.any():
            terms["nce"], metrics["accuracy"] = self._among_all(vectors, batch)
        if compared.any():
            terms["apart"] = self._likeness(vectors, batch)
        return Loss(terms, metrics=metrics)

    def _among_all(self, vectors: Tensor, batch: Batch) -> tuple[Term, Term]:
        """(−log softmax of each anchor's positive, how many are nearest to it)."""
        import torch

        kinds = {name: batch.columns[name] > 0 for name in ("anchor", "positive", "pair", "compared")}
        anchors = kinds["anchor"].nonzero()[:, 0]
        others = (kinds["pair"] & ~kinds["compared"]).nonzero()[:, 0]
        # An example has one anchor and one positive, and both stand in the order of the examples.
        own = kinds["positive"][others].nonzero()[:, 0]
        nll, nearest = self._sought(vectors, batch, anchors, others, own)
        if self.symmetric:
            back, _ = self._sought(vectors, batch, others[own], anchors, torch.arange(len(anchors), device=own.device))
            nll = (nll + back) / 2
        return Term(nll.sum(), "anchor"), Term(nearest.sum(), "anchor")

    def _sought(
        self, vectors: Tensor, batch: Batch, seeking: Tensor, among: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """([A] −log softmax of the right one, [A] whether it is nearest), given rows that seek and rows to be found."""
        import torch

        text, belongs = batch.columns["text"], batch.columns["belongs"]
        known = text[seeking][:, None] == text[among][None]
        known |= belongs[seeking][:, None] == belongs[among][None]
        known |= text[among[own]][:, None] == text[among][None]
        known[torch.arange(len(own), device=own.device), own] = False
        if vectors.requires_grad and bool((known.sum(1) == len(among) - 1).all()):
            raise DataError(
                "every text of an update belongs to every other, so there is nothing to tell apart",
                where=", ".join(batch.ids[:3]),
                fix="raise optim.examples, give negatives, or leave out a label that all rows have",
            )
        logits = (vectors[seeking] @ vectors[among].T / self.temperature).masked_fill(known, -torch.inf)
        nll = torch.nn.functional.cross_entropy(logits, own, reduction="none")
        return nll, logits.argmax(1) == own

    def _likeness(self, vectors: Tensor, batch: Batch) -> Term:
        first, second = self._pairs(batch, "compared")
        cosine, score = (vectors[first] * vectors[second]).sum(1), batch.columns["score"][second]
        if self.compare == "squared":
            lost = (cosine - score) ** 2
        else:
            apart = 1 - cosine
            lost = score * apart**2 + (1 - score) * (self.margin - apart).clamp(min=0) ** 2
        return Term(lost.sum(), "compared")

    def _pairs(self, batch: Batch, column: str) -> tuple[Tensor, Tensor]:
        """(the first row of each pair's example, the row it is paired with)."""
        import torch

        second = (batch.columns[column] > 0).nonzero()[:, 0]
        first = torch.searchsorted(batch.example, batch.example[second].contiguous())
        return first, second

    def _by_module(self, vectors: Tensor, batch: Batch) -> Loss:
        first, second = self._pairs(batch, "pair")
        assert self.file is not None
        assert self._module is not None
        with naming(self.file):
            lost = self._module(vectors[first], vectors[second], batch.columns["score"][second].to(vectors.dtype))
        if lost.dim() > 1 or lost.numel() not in (1, len(first)):
            raise RecipeError(
                f"the module gives {list(lost.shape)} for {len(first)} pairs",
                where=self.file,
                fix="return a loss for each pair, [P], or their mean",
            )
        return Loss({"module": Term(lost.sum() if lost.numel() == len(first) else lost.sum() * len(first), "pair")})

    @cached_property
    def _module(self) -> Any:
        """The user's own module; None where there is none."""
        if self.file is None:
            return None
        from torch import nn

        made = defined(self.file, nn.Module, MODULE)
        with naming(self.file):
            module = made(**self.options)
        if any(weight.requires_grad for weight in module.parameters()):
            raise RecipeError(
                "the module has weights of its own, which nothing would train", where=self.file, fix=MODULE
            )
        return module


def pooled(codec: Codec, where: str, text: str, pooling: Pooling) -> Row:
    """The row of a text that is read where its vector is taken from."""
    row = codec.everywhere(where, text)
    if pooling == "mean":
        return row
    if pooling == "first" and not codec.both_ways:
        raise RecipeError(
            "the first token of this model has seen nothing but itself",
            where="objective.pooling",
            fix="use last or mean: the model reads from left to right",
        )
    place: Sequence[int] = [0] if pooling == "first" else [len(row.tokens) - 1]
    return replace(row, at=row.at[place], label=row.label[place], weight=row.weight[place])


def _one(true: bool) -> np.ndarray:
    return np.array([true], np.float32)
