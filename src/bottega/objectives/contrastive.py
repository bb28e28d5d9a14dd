"""Contrastive learning: texts that belong together near each other, others far (Oord et al. 2018, arXiv 1807.03748)."""

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
from bottega.plugins import load_class_from_file, locate_user_errors
from bottega.records import Compared, Paired, Record, Unusable

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


EXAMPLE = "class Distance(torch.nn.Module): def forward(self, output1, output2, label): return …"


class Contrastive(Objective):
    """Of pairs and triplets the mean of −log softmax(cosine / temperature) of the positive among all in the update.

    Candidates of an anchor are the positives and negatives of the whole update, however it is divided, but for those
    known to belong to it too: the same text as the anchor or its positive, what another row says belongs to the same
    anchor, or a row of the same `label`. Texts are the same that have the same tokens. Of texts with a score, what
    `compare` says of their cosine.

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

    @property
    def pooling_mode(self) -> Pooling:
        return self.pooling

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        with codec.track_truncation() as truncation:
            (rows,) = self.evaluation_rows(record, codec)
        assert isinstance(record, (Paired, Compared))
        # A text with itself is a pair to learn from only with dropout, and where it was meant.
        meant = isinstance(record, Paired) and record.anchor == record.positive
        if np.array_equal(rows[0].tokens, rows[1].tokens) and not meant:
            raise Unusable("the two texts are the same in every token" + truncation.note)
        return [rows]

    def evaluation_rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, (Paired, Compared))
        anchored, texts = isinstance(record, Paired), record.texts
        scores = [0.0, record.score if isinstance(record, Compared) else 1.0, *[0.0] * (len(texts) - 2)]
        rows = [pooled_row(codec, record.where, text, self.pooling) for text in texts]
        label = record.label if isinstance(record, Paired) else None
        text = [crc32(row.tokens.tobytes()) for row in rows]
        named = text[1] if label is None else crc32(f"label {label}".encode(errors="surrogatepass"))
        return [
            tuple(
                replace(
                    row,
                    columns={
                        "anchor": _flag(anchored and place == 0),
                        "positive": _flag(anchored and place == 1),
                        "compared": _flag(not anchored and place == 1),
                        "pair": _flag(place > 0),
                        "score": np.array([scores[place]], np.float32),
                        "text": np.array([text[place]]),
                        # A negative belongs to nothing but what has the very same text.
                        "belongs": np.array([named if place < 2 else text[place]]),
                        "given": np.array([text[0] if place < 2 else text[place]]),
                    },
                )
                for place, row in enumerate(rows)
            )
        ]

    def is_informative(self, examples: Sequence[Example]) -> bool:
        rows = [row for example in examples for row in example.rows]
        columns = {name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns}
        if self.file is not None or columns["compared"].any():
            return True
        return any(not positive_mask(columns, *way).all() for way in self._ways(columns))

    def _ways(self, columns: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """What seeks, among what, and where the right ones stand there: anchors, and of `symmetric` positives too."""
        anchors, others, own = split_candidates(columns)
        back = (others[own], anchors, np.arange(len(anchors)))
        return [(anchors, others, own), *([back] if self.symmetric else [])]

    def closing_note(self, updates: Sequence[Mapping[str, float]]) -> str:
        passed = int(sum(one.get(SKIPPED_METRIC, 0) for one in updates))
        what = "in which every text belongs to every other taught nothing, and were passed over for others"
        return f"{passed} updates {what}" if passed else ""

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
        """(−log softmax of each anchor's positive, how many are nearest to it, of those that have a rival)."""
        import torch

        columns = {name: column.cpu().numpy() for name, column in batch.columns.items()}
        found = [self._sought(vectors, columns, way) for way in self._ways(columns)]
        nll = torch.stack([nll for nll, _, _ in found]).mean(0)
        _, nearest, rivalled = found[0]
        # Where nothing else could be nearest, being it says nothing.
        share = len(nearest) / rivalled.sum().clamp(min=1)
        return Term(nll.sum(), "anchor"), Term((nearest & rivalled).sum() * share, "anchor")

    def _sought(
        self, vectors: Tensor, columns: Mapping[str, np.ndarray], way: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """([A] −log softmax of the right one, whether it is nearest, whether another could be) of what seeks."""
        import torch

        seeking, among, own = way
        known = positive_mask(columns, *way)
        known[np.arange(len(own)), own] = False
        rivalled = torch.from_numpy(known.sum(1) < len(among) - 1).to(vectors.device)
        hidden, right = (torch.from_numpy(one).to(vectors.device) for one in (known, own))
        logits = (vectors[seeking] @ vectors[among].T / self.temperature).masked_fill(hidden, -torch.inf)
        nll = torch.nn.functional.cross_entropy(logits, right, reduction="none")
        return nll, logits.argmax(1) == right, rivalled

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
        with locate_user_errors(self.file):
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

        made = load_class_from_file(self.file, nn.Module, EXAMPLE)
        with locate_user_errors(self.file):
            module = made(**self.options)
        if any(weight.requires_grad for weight in module.parameters()):
            raise RecipeError(
                "the module has weights of its own, which nothing would train", where=self.file, fix=EXAMPLE
            )
        return module


def split_candidates(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the rows that are anchors, all that may belong to one, and where among those the positive of each stands)."""
    others = np.flatnonzero((columns["pair"] > 0) & (columns["compared"] == 0))
    # An example has one anchor and one positive, and both stand in the order of the examples.
    return np.flatnonzero(columns["anchor"]), others, np.flatnonzero(columns["positive"][others])


def positive_mask(
    columns: Mapping[str, np.ndarray], seeking: np.ndarray, among: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """[A, O] which of the rows `among` are known to belong to each that seeks, its own, at `own`, included."""
    text = columns["text"]
    known: np.ndarray = text[among[own]][:, None] == text[among][None]
    for name in ("text", "belongs", "given"):
        known |= columns[name][seeking][:, None] == columns[name][among][None]
    return known


def pooled_row(codec: Codec, where: str, text: str, pooling: Pooling) -> Row:
    """The row of a text that is read where its vector is taken from."""
    row = codec.encode_every_token(where, text)
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


def _flag(true: bool) -> np.ndarray:
    return np.array([true], np.float32)
