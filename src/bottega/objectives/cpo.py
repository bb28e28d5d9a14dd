"""Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417, eq. 3): DPO without its reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Objective, logistic_loss, pair_metrics
from bottega.records import Preference, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Cpo(Objective):
    """−log σ(β · (log-probability of the chosen answer − that of the rejected)) − weight · likelihood of the chosen.

    beta             how steep the preference is
    weight           of the likelihood
    likelihood       `answer`: log-probability of whole answers, a mean over them, as in the paper; `token`: a mean over
                     the tokens of all chosen answers, as in TRL
    label_smoothing  share of pairs that may be the wrong way round; not in the paper
    """

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    lr: ClassVar[tuple[float, float]] = (1e-6, 2e-5)

    kind: Literal["cpo"] = "cpo"
    beta: float = Field(0.1, gt=0)
    weight: float = Field(1.0, ge=0)
    likelihood: Literal["answer", "token"] = "answer"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        chosen, rejected = codec.encode_pair(record)
        return [(chosen.with_columns(learned=1), rejected.with_columns(learned=0))]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        logp = scores["logp"]
        answers = batch.sum_rows(logp)
        margin = self.beta * (answers[0::2] - answers[1::2])
        unit = "learned" if self.likelihood == "token" else "example"
        terms = {
            "cpo": Term(logistic_loss(margin, self.label_smoothing).sum(), "example"),
            "nll": Term(-(batch.columns["learned"] * logp).sum(), unit, self.weight),
        }
        return Loss(terms, metrics=pair_metrics(margin))
