"""What a model makes of its hidden states: one file a head, found by its file name.

To add one, write `models/heads/<kind>.py` with one subclass of `Head`. A run has the head that its objective names, and
any others beside it (`Objective.extra_heads`); each gives the outputs it declares, and an objective reads them by name.

Legend: N positions that are read, H hidden width, C classes, V vocabulary.
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
from bottega.objectives import smoothed_nll


class ScoreOptions(NamedTuple):
    """How scores are computed.

    weighted     the gradient of logp will be `batch.weight` times one number, which spares a trained head work
    smoothing    fraction of each logp that is a mean over all labels (Szegedy et al. 2015, arXiv 1512.00567)
    temperature  what scores over the vocabulary are divided by
    """

    weighted: bool = False
    smoothing: float = 0.0
    temperature: float = 1.0


class Head(ABC):
    """A head of transformers, or one of our own that is attached to a model.

    outputs          names of the scores it can give, each [N, …]
    over_vocabulary  its scores are those of tokens: it ends in the model's output embeddings
    per_row          it reads one position of each row, and its own forward gives one result a row
    reads_everywhere  nearly all positions are read, so a last layer is computed for all
    is_bare          its scores are the states, and no forward of the model's own gives any other
    may_be_new       a checkpoint may lack it: it is about to be trained
    peft_task        PEFT's name of the task; None where PEFT has none, or asks for another forward
    command          the command that uses a model with this head
    probe_output     by which of its outputs "packed = alone" is proved
    """

    outputs: ClassVar[frozenset[str]]
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
        """transformers' class of a model with this head; a ModelError for one that is only attached beside another."""
        raise ModelError(
            f"no model of {config.model_type} is made with the head {self.kind} alone",
            where="objective",
            fix="name it in the objective's extra_heads, beside a head of transformers",
        )

    def check(self, config: Any) -> None:
        """A ModelError where a model of this config reads the other way than the head needs."""
        if config.is_encoder_decoder:
            raise ModelError(
                f"{config.model_type} reads with one part and writes with another",
                where="model.base",
                fix="use it with span, sft or preferences; to classify, write the label as text with sft",
            )

    def attach(self, network: Any) -> list[str]:
        """Add the head's modules to a model that has none of them; their names. They are trained and saved with it."""
        return []

    @abstractmethod
    def scores(
        self, network: Any, states: Tensor, batch: Batch, wanted: frozenset[str], options: ScoreOptions
    ) -> dict[str, Tensor]:
        """The wanted outputs among its own, float32 or wider, from the states that the batch reads.

        states  [N + padding, H]; a head over the vocabulary gets a rounded number of them, any other exactly N
        """


def from_logits(logits: Tensor, batch: Batch, wanted: frozenset[str], options: ScoreOptions) -> dict[str, Tensor]:
    """logits [N, C] → the wanted of `logits`, `logp` of the labels and `best` label."""
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


ALIASES = {"class": "sequence"}
"""Earlier names of heads, which objectives of a user's own may have."""


def kinds() -> list[str]:
    """Every head in the folder, by name."""
    return plugins.module_names(__path__)


@cache
def load(kind: str) -> Head:
    """The head of `models/heads/<kind>.py`."""
    head: type[Head] = plugins.load_class(__name__, ALIASES.get(kind, kind), Head)
    return head()
