"""Heads: scores from the hidden states of a model. One file per head, found by its file name.

To add one, write `models/heads/<kind>.py` with one subclass of `Head`. A run has the head that its objective names, and
any others beside it (`Objective.extra_heads`); each gives the outputs it declares, and an objective reads them by name.

Legend: N positions read, H hidden width, C classes, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from bottega import plugins
from bottega.batch import Batch
from bottega.errors import ModelError
from bottega.objectives import DEFAULT_KINDS, DEFAULT_OBJECTIVE, SPANS_OF_TEXT, HeadKind, smoothed_nll


class ScoreOptions(NamedTuple):
    """How scores are computed.

    weighted     the gradient of logp will be `batch.weight` times a common factor, which saves a trained head work
    smoothing    label smoothing: fraction of each logp that is the mean over all labels (Szegedy et al. 2015, arXiv
                 1512.00567)
    temperature  divisor of the logits
    """

    weighted: bool = False
    smoothing: float = 0.0
    temperature: float = 1.0


class Head(ABC):
    """A head of a transformers model class, or a custom one attached to a model.

    outputs           names of the scores it can compute, each [N, …]
    description       what a model with this head is called, for messages
    autoregressive    each position predicts the next token, so that the model can generate text
    over_vocabulary   its classes are the tokens: it ends in the model's output embeddings
    per_row           it reads one position of each row, and the model's own forward gives one result per row
    reads_everywhere  nearly all positions are read, so computing a last layer at those alone saves nothing
    is_bare           its output is the hidden states; the model's own forward computes nothing else
    may_be_new        a checkpoint may lack its weights, since it is about to be trained
    peft_task         PEFT's task type; None if PEFT has none, or one that changes the forward
    command           the command that uses a model with this head; empty if there is none
    probe_output      the output that the packing proof compares
    """

    outputs: ClassVar[frozenset[str]]
    description: ClassVar[str] = "a model with this head"
    autoregressive: ClassVar[bool] = False
    over_vocabulary: ClassVar[bool] = False
    per_row: ClassVar[bool] = False
    reads_everywhere: ClassVar[bool] = False
    is_bare: ClassVar[bool] = False
    may_be_new: ClassVar[bool] = True
    peft_task: ClassVar[str | None] = None
    command: ClassVar[str] = ""
    probe_output: ClassVar[str] = "logits"

    @property
    def kind(self) -> str:
        """The name of its file."""
        return type(self).__module__.rpartition(".")[2]

    def auto_class(self, config: Any) -> Any:
        """The transformers auto class of models with this head; a ModelError if transformers has none."""
        raise ModelError(
            f"transformers has no {config.model_type} model with the head {self.kind}",
            where="objective",
            fix="list it in the objective's extra_heads, beside a head that transformers has",
        )

    def check(self, config: Any) -> None:
        """Raise a ModelError if models of this config attend in another direction than the head needs."""
        if config.is_encoder_decoder:
            raise ModelError(
                f"{config.model_type} is an encoder–decoder",
                where="model.base",
                fix=f"train it with {SPANS_OF_TEXT} or {DEFAULT_OBJECTIVE}, which can also generate a label as text",
            )

    def attach(self, network: Any) -> list[str]:
        """Add the head's modules to a model that lacks them; their names. They are trained and saved with the model."""
        return []

    @abstractmethod
    def scores(
        self, network: Any, states: Tensor, batch: Batch, wanted: frozenset[str], options: ScoreOptions
    ) -> dict[str, Tensor]:
        """The wanted outputs, all among its own, float32 or wider.

        states  [N + padding, H] the hidden states at the positions read; only a head over the vocabulary gets padding
        """


def from_logits(logits: Tensor, batch: Batch, wanted: frozenset[str], options: ScoreOptions) -> dict[str, Tensor]:
    """From logits [N, C] those wanted of `logits`, `logp` [N] of the labels and `best` [N], the likeliest label."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits if options.temperature == 1.0 else logits / options.temperature
    scores: dict[str, Tensor] = {}
    if "logits" in wanted:
        scores["logits"] = logits
    if "logp" in wanted or "best" in wanted:
        scores["logp"] = -smoothed_nll(logits, batch.label, options.smoothing)
    if "best" in wanted:
        scores["best"] = logits.argmax(-1)
    return scores


def objectives_of_other_heads(kind: HeadKind) -> str:
    """The usual objective of each head but this one, as a list for a message."""
    *objectives, last = (objective for head, objective in DEFAULT_KINDS.items() if head != kind)
    return f"{', '.join(objectives)} or {last}"


# Former names of heads, which objectives in users' files may still have.
ALIASES = {"class": "sequence"}


def kinds() -> list[str]:
    """Names of all heads in the folder."""
    return plugins.module_names(__path__)


@cache
def load(kind: str) -> Head:
    """The head of `models/heads/<kind>.py`."""
    head: type[Head] = plugins.load_class(__name__, ALIASES.get(kind, kind), Head)
    return head()
