"""Reward model: one score for a prompt with an answer, higher for the better one (Ouyang et al. 2022, eq. 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import (
    HeadKind,
    Objective,
    Output,
    Prediction,
    chosen_minus_rejected,
    logistic_loss,
    pair_metrics,
)
from bottega.records import Preference, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Reward(Objective):
    """Reward model: −log σ(score(chosen) − score(rejected) − margin), the Bradley–Terry model, a mean over pairs.

    The score is read where a classifier is: at the last token, or of an encoder at the first. With `centering` the mean
    of weight · (score(chosen) + score(rejected))² is added (Eisenstein et al. 2023, arXiv 2312.09244).
    """

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    head: ClassVar[HeadKind] = "sequence"
    outputs: ClassVar[frozenset[Output]] = frozenset({"logits"})
    lr: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    kind: Literal["reward"] = "reward"
    margin: float = Field(
        0.0,
        ge=0,
        description="How far apart the scores of a pair should be (Touvron et al. 2023, arXiv 2307.09288, eq. 2; the "
        "same for all pairs).",
    )
    centering: float = Field(0.0, ge=0, description="Weight of the loss that keeps scores around 0; 0.01 is usual.")

    @property
    def prediction(self) -> Prediction:
        return "preference"

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        chosen, rejected = (codec.pooled_row(row.tokens, 0) for row in codec.encode_pair(record))
        return [(chosen, rejected)]

    def count_labels(self, records: Iterable[Record]) -> dict[str, int]:
        # One output, named as transformers would show it.
        return {"reward": 0}

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        score = scores["logits"][:, 0]  # [R]: a row has one prediction
        margin = chosen_minus_rejected(score)  # [E]
        terms = {"reward": Term(logistic_loss(margin - self.margin).sum(), "example")}
        if self.centering:
            # The loss above depends on differences alone, so without this scores may drift.
            total = score[0::2] + score[1::2]  # [E]
            terms["centre"] = Term((total**2).sum(), "example", self.centering)
        return Loss(terms, metrics=pair_metrics(margin))
