"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, eq. 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Objective
from bottega.records import Preference, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.data.codec import Codec


class Dpo(Objective):
    """−log σ(β · margin), where the margin is how much more the policy raised the chosen answer than the rejected.

    Both answers of a pair are rows of one example, chosen first, and share their prompt.

    beta  how strongly the policy is held to the reference: larger stays closer
    """

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    reference: ClassVar[bool] = True
    lr: ClassVar[tuple[float, float]] = (1e-6, 2e-5)

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        return [codec.pair(record)]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        from torch.nn.functional import logsigmoid

        raised = batch.sum_rows(scores["logp"] - batch.columns["reference"])
        margin = self.beta * (raised[0::2] - raised[1::2])
        return Loss(
            {"dpo": Term(-logsigmoid(margin).sum(), "example")},
            metrics={
                "accuracy": Term((margin > 0).sum(), "example"),
                "margin": Term(margin.detach().sum(), "example"),
            },
        )
