"""What objectives on preference pairs share: rows alternate, the chosen answer first, the rejected one second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bottega.batch import Term

if TYPE_CHECKING:
    from torch import Tensor


def chosen_minus_rejected(values: Tensor) -> Tensor:
    """[R] values of rows → [E] that of each pair's chosen answer minus that of its rejected one."""
    # Both rows of an example stand in one micro-batch, in the order in which `rows` returned them.
    return values[0::2] - values[1::2]


def logistic_loss(margin: Tensor, smoothing: float = 0.0) -> Tensor:
    """[E] margins → [E] −log σ(margin), the Bradley–Terry loss.

    smoothing  ε, the probability that a pair's label is wrong: −(1 − ε) · log σ(margin) − ε · log σ(−margin)
               (conservative DPO, Mitchell 2023)
    """
    from torch.nn.functional import logsigmoid

    # logsigmoid, because log(sigmoid(x)) underflows to -inf for large negative margins.
    loss = -(1 - smoothing) * logsigmoid(margin)  # [E]
    return loss - smoothing * logsigmoid(-margin) if smoothing else loss


def pair_metrics(margin: Tensor) -> dict[str, Term]:
    """The metrics of pairs, from margins [E]: how often the chosen answer is ahead, and the mean margin."""
    return {
        "accuracy": Term((margin > 0).sum(), "example"),
        "margin": Term(margin.detach().sum(), "example"),
    }
