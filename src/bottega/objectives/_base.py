"""What an objective is: options as fields, records to rows, scores to loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from bottega.batch import Batch, Example, Ints, Loss, Row, Term
from bottega.records import Prompt, Record

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


SKIPPED_METRIC = "passed_over"
"""Among the metrics of an update how many were drawn before it that had nothing to teach; where there were any."""


Output = str


Pooling = Literal["mean", "first", "last"]
"""Which token states make the vector of a text."""

HeadKind = str
"""What a model says of a text: its next token, its class, a class of each word, what stood at a masked place, or a
place in space."""


class Score(NamedTuple):
    """Something to be scored without gradient before an update; the result becomes a column of its batches.

    column  the name it gets in `batch.columns`, [N]
    by      `reference`: the policy as the run began; `old`: the policy as it was when a round of answers was sampled
    output  which of the scores it is
    """

    column: str
    by: Literal["reference", "old"]
    output: Output = "logp"


class Statistic(NamedTuple):
    """Means over the whole update that a loss must know: token rows of their own, scored before it without gradient.

    examples  (the update's examples, most tokens of a row) → what is scored, by the policy and by each `Score` needed
    terms     (scores, batch) → named sums; their means over all those examples become `batch.statistics`
    """

    examples: Callable[[Sequence[Example], int], list[Example]]
    terms: Callable[[Mapping[str, Tensor], Batch], dict[str, Term]]


class Objective(BaseModel, ABC):
    """Options as fields, and two methods.

    reads      record types it understands, the preferred first
    head       which scores it needs a model for
    outputs    what it reads of the scores: logp [N], logits [N, C], hidden [N, H]
    extra_heads  further heads beside it, by the names of their files
    joint      its loss is no sum over examples but compares those of an update with each other
    by_label   a fraction held out for validation is one of every label
    splits     a text longer than `max_length` may be cut into several rows, its windows
    overlap    tokens at a window's end that the next one begins with
    lr         default learning rates, measured: (full fine-tuning, LoRA)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    reads: ClassVar[tuple[type, ...]]
    head: ClassVar[HeadKind] = "language"
    outputs: ClassVar[frozenset[Output]] = frozenset({"logp"})
    extra_heads: ClassVar[tuple[str, ...]] = ()
    joint: ClassVar[bool] = False
    stratify: ClassVar[bool] = False
    can_split: ClassVar[bool] = False
    overlap: ClassVar[int] = 0
    lr: ClassVar[tuple[float, float]] = (2e-5, 2e-4)

    kind: str

    @classmethod
    def class_for(cls, options: Mapping[str, Any]) -> type[Objective]:
        """The class these options of a recipe are for."""
        return cls

    @abstractmethod
    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        """The examples of a record, each a tuple of rows; raises `codec.Unusable` for one that makes none."""

    @abstractmethod
    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        """Sums to minimise, each with the unit it is a mean over."""

    @property
    def needs(self) -> tuple[Score | Statistic, ...]:
        """What must be scored before each update."""
        return ()

    @property
    def compares_with_reference(self) -> bool:
        """Whether a frozen copy of the policy as the run began is needed."""
        return any(isinstance(need, Score) and need.by == "reference" for need in self.needs)

    def evaluation_rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        """The examples by which a model trained so is measured."""
        return self.rows(record, codec)

    @property
    def logit_temperature(self) -> float:
        """What scores over the vocabulary are divided by, wherever they are taken."""
        return 1.0

    def metadata(self, record: Record) -> Any:
        """What must be known of a record once it is rows; None for most."""
        return None

    def augment(self, example: Example, codec: Codec, seed: int) -> Example:
        """The example as one update takes it: where chance has a part in its rows, by a seed of that update's own."""
        return example

    def window_tokens(self, row: Row, codec: Codec) -> Ints:
        """The tokens of the text that a row is a window of, without what the tokenizer puts around them."""
        return row.tokens

    def window_row(self, tokens: Ints, codec: Codec) -> Row | None:
        """The inverse of `passage`; None where these tokens make no row, or the objective does not say which."""
        return None

    def is_informative(self, examples: Sequence[Example]) -> bool:
        """Whether there is anything to learn from an update of these; of all else, others are taken."""
        return True

    def closing_note(self, updates: Sequence[Mapping[str, float]]) -> str:
        """What must be said at the end of a run, by the metrics of all its updates; empty for nothing."""
        return ""

    @property
    def pooling_mode(self) -> Pooling | None:
        """How the states of a text's tokens become its vector; None where no vector is made."""
        return None

    @property
    def weighted(self) -> bool:
        """Whether the loss is a mean of log-probabilities by `batch.weight`: a promise that saves time, not a need."""
        return False

    @property
    def smoothing(self) -> float:
        """Share of each log-probability that is a mean over the whole vocabulary while training."""
        return 0.0

    def prompt_and_reference(self, record: Record) -> tuple[Prompt, str] | None:
        """(prompt, right answer) of a record whose answer can be written and compared; None for any other."""
        return None

    def count_labels(self, records: Iterable[Record]) -> dict[str, int]:
        """Class names in the order of their ids, with how many rows have each; empty where scores are not classes."""
        return {}


class Likelihood(Objective):
    """Objectives whose loss is a mean negative log-likelihood, a token by its weight."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)

    @property
    def smoothing(self) -> float:
        return self.label_smoothing

    @property
    def pooling_mode(self) -> Pooling | None:
        """How the states of a text's tokens become its vector; None where no vector is made."""
        return None

    @property
    def weighted(self) -> bool:
        return True

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        return Loss({"nll": Term(-(batch.weight * scores["logp"]).sum(), "token")})


def smoothed_nll(logits: Tensor, label: Tensor, smoothing: float = 0.0) -> Tensor:
    """[N, C], [N] → [N] cross-entropy, a share `smoothing` of it with the even distribution (arXiv 1512.00567)."""
    logp = logits.log_softmax(-1)
    nll = -logp.gather(-1, label[:, None]).squeeze(-1)
    return nll if not smoothing else (1 - smoothing) * nll - smoothing * logp.mean(-1)


def logistic_loss(margin: Tensor, smoothing: float = 0.0) -> Tensor:
    """[E] −log σ(margin), or with a share `smoothing` of the pairs taken for the wrong way round."""
    from torch.nn.functional import logsigmoid

    right = -(1 - smoothing) * logsigmoid(margin)
    return right - smoothing * logsigmoid(-margin) if smoothing else right


def pair_metrics(margin: Tensor) -> dict[str, Term]:
    """The metrics of pairs whose chosen answers are ahead by `margin` [E]."""
    return {
        "accuracy": Term((margin > 0).sum(), "example"),
        "margin": Term(margin.detach().sum(), "example"),
    }
