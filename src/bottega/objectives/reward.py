"""Reward model: a score a transcript, higher for the better answer (Bradley–Terry; Ouyang et al. 2022, eq. 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Objective, Output
from bottega.records import Preference, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.data.codec import Codec


class Reward(Objective):
    """−log σ(score of the chosen − score of the rejected); the score is read where a classifier's would be."""

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    head: ClassVar[Literal["language", "class"]] = "class"
    outputs: ClassVar[frozenset[Output]] = frozenset({"logits"})
    lr: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    kind: Literal["reward"] = "reward"

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Preference)
        chosen, rejected = (codec.whole(row.tokens, 0) for row in codec.pair(record))
        return [(chosen, rejected)]

    def labels(self, records: Iterable[Record]) -> list[str]:
        return ["reward"]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        from torch.nn.functional import logsigmoid

        reward = scores["logits"][:, 0]
        margin = reward[0::2] - reward[1::2]
        return Loss(
            {"reward": Term(-logsigmoid(margin).sum(), "example")},
            metrics={
                "accuracy": Term((margin > 0).sum(), "example"),
                "margin": Term(margin.detach().sum(), "example"),
            },
        )
