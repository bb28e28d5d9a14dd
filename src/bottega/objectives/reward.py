"""Reward model: a score a transcript, higher for the better answer (Bradley–Terry; Ouyang et al. 2022, eq. 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import HeadKind, Objective, Output, logistic_loss, pair_metrics
from bottega.records import Preference, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Reward(Objective):
    """−log σ(score of the chosen − score of the rejected − margin), the scores read where a classifier's would be.

    margin     how far apart the scores should be (Touvron et al. 2023, arXiv 2307.09288, eq. 2, one for all pairs)
    centering  weight of (score of the chosen + score of the rejected)², which keeps the scores around 0 (Eisenstein et
               al. 2023, arXiv 2312.09244); 0.01 is usual
    """

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    head: ClassVar[HeadKind] = "sequence"
    outputs: ClassVar[frozenset[Output]] = frozenset({"logits"})
    lr: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    kind: Literal["reward"] = "reward"
    margin: float = Field(0.0, ge=0)
    centering: float = Field(0.0, ge=0)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        chosen, rejected = (codec.pooled_row(row.tokens, 0) for row in codec.encode_pair(record))
        return [(chosen, rejected)]

    def count_labels(self, records: Iterable[Record]) -> dict[str, int]:
        return {"reward": 0}

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        reward = scores["logits"][:, 0]
        chosen, rejected = reward[0::2], reward[1::2]
        terms = {"reward": Term(logistic_loss(chosen - rejected - self.margin).sum(), "example")}
        if self.centering:
            terms["centre"] = Term(((chosen + rejected) ** 2).sum(), "example", self.centering)
        return Loss(terms, metrics=pair_metrics(chosen - rejected))
