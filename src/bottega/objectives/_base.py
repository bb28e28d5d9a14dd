"""What an objective is: options as fields, `rows` from records to token rows, `loss` from scores to named sums.

Nothing here imports torch at load time, so that a recipe can be read and validated without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from bottega.batch import Batch, Example, Ints, Loss, Row, Term
from bottega.records import Answer, Posed, Preference, Prompt, Record, Unpaired

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.objectives._on_policy import OnPolicy
    from bottega.tokenization.codec import Codec


# The metric of an update that counts the selections of examples skipped before it because they had nothing to teach.
# Present only where there were any. The string is a key in events.jsonl.
SKIPPED_METRIC = "passed_over"

# The name of one of the model's outputs: `logp` [N], `logits` [N, C], `hidden` [N, H], or one of an extra head.
Output = str

# How the hidden states of a text's tokens become its embedding.
Pooling = Literal["mean", "first", "last"]

# The name of a file in models/heads/: what a model predicts (the next token, a class, a tag for each word, masked
# tokens) or computes (an embedding).
HeadKind = str


# What the scores of a head over whole texts mean: one class, any number of classes, a number, which of two is better.
Prediction = Literal["class", "classes", "number", "preference"]


class Score(NamedTuple):
    """A score to compute without gradient before an update; it becomes a column of the update's batches.

    column  the name it gets in `batch.columns`, [N]
    by      `reference`: the frozen initial policy; `old`: the policy that sampled the round's answers
    output  which of the model's outputs it is
    """

    column: str
    by: Literal["reference", "old"]
    output: Output = "logp"


class Statistic(NamedTuple):
    """Means over the whole update that a loss needs, from token rows of their own, scored without gradient before it.

    examples  (the update's examples, maximum tokens per row) → the examples to score, by the policy and by every
              `Score` that the objective needs
    terms     (scores, batch) → named sums; their means over all those examples become `batch.statistics`
    """

    examples: Callable[[Sequence[Example], int], list[Example]]
    terms: Callable[[Mapping[str, Tensor], Batch], dict[str, Term]]


class Objective(BaseModel, ABC):
    """An objective: options as fields, and two methods.

    reads        record types it can encode, the preferred one first
    head         the head it trains, by the name of its file
    outputs      the model's outputs that `loss` reads: logp [N], logits [N, C], hidden [N, H]
    extra_heads  further heads trained beside it, by the names of their files
    joint        the loss compares an update's examples with each other, so it is no sum over examples
    stratify     by default, validation rows split off the training rows are the same fraction of every label
    can_split    a text longer than `max_length` may be cut into several rows, its windows
    overlap      tokens at a window's end that the next window begins with
    lr           default peak learning rates, found by measurement: (full fine-tuning, LoRA)
    """

    # Frozen: the objective is part of a recipe, which is shared and hashed. No NaN: resolved.json must read back.
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
        """The class that validates these options of a recipe: this one, or the one in the user's file."""
        return cls

    # The two that every objective has

    @abstractmethod
    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        """The examples of a record, each a tuple of token rows; raises `records.Unusable` for one that makes none."""

    @abstractmethod
    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        """The terms to minimize and the metrics to report, each a sum over the batch and the unit it is a mean over.

        scores  the outputs that `outputs` names, each [N, …]
        """

    # From records to examples

    def evaluation_rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        """The examples that a trained model is evaluated on; those of training unless it learns from something else."""
        return self.rows(record, codec)

    def augment(self, example: Example, codec: Codec, seed: int) -> Example:
        """The example as one update sees it, with its random parts (masking, FIM) drawn by `seed`."""
        return example

    def metadata(self, record: Record) -> Any:
        """What `Example.about` keeps of a record once it is encoded; None for most objectives."""
        return None

    def prompt_and_reference(self, record: Record) -> tuple[Prompt, str] | None:
        """(prompt, reference answer) of a record whose answer can be generated and compared; None for any other."""
        return None

    def count_labels(self, records: Iterable[Record]) -> dict[str, int]:
        """Names of the classes in the order of their ids → number of rows; empty where nothing is classified.

        Raises DataError if the labels cannot be learned from.
        """
        return {}

    # Windows of a long text, which move from epoch to epoch

    def window_tokens(self, row: Row, codec: Codec) -> Ints:
        """The tokens of the text that a row holds, without those the tokenizer adds around a text."""
        return row.tokens

    def window_row(self, tokens: Ints, codec: Codec) -> Row | None:
        """The inverse of `window_tokens`; None if these tokens make no row, or windows cannot move."""
        return None

    # What an update needs

    @property
    def prediction(self) -> Prediction | None:
        """What a score of a whole text means; None for other heads."""
        return None

    @property
    def tag_scheme(self) -> str:
        """The letters of the tags of words, such as BIO; empty for other heads."""
        return ""

    @classmethod
    def example_options(cls, *, answered: bool) -> dict[str, Any]:
        """Options that a new recipe must give, as an example; `answered`: the rows have reference answers."""
        return {}

    @property
    def needs(self) -> tuple[Score | Statistic, ...]:
        """What must be scored without gradient before each update."""
        return ()

    @property
    def compares_with_reference(self) -> bool:
        """Whether a frozen copy of the initial policy is needed."""
        return any(isinstance(need, Score) and need.by == "reference" for need in self.needs)

    @property
    def on_policy(self) -> OnPolicy | None:
        """This objective, if it learns from answers sampled from the policy; else None."""
        return None

    @property
    def model_names(self) -> tuple[str, ...]:
        """Models that the objective loads beside the policy and its reference, such as reward models."""
        return ()

    @property
    def code_files(self) -> tuple[Path, ...]:
        """The user's own Python files that the objective runs."""
        file = getattr(self, "file", None)
        return (Path(file),) if file else ()

    def is_informative(self, examples: Sequence[Example]) -> bool:
        """Whether an update of these examples has a gradient; the sampler skips those that have none."""
        return True

    def closing_note(self, updates: Sequence[Mapping[str, float]]) -> str:
        """A message for the end of a run, from the metrics of all its updates; empty for none."""
        return ""

    # How the model computes its outputs

    @property
    def logit_temperature(self) -> float:
        """What the logits over the vocabulary are divided by, in the loss and in every `Score`."""
        return 1.0

    @property
    def pooling_mode(self) -> Pooling | None:
        """How the hidden states of a text become its embedding; None where no embedding is made."""
        return None

    @property
    def weighted(self) -> bool:
        """Whether the loss is −Σ weight · logp over `batch.weight`.

        A promise that saves time: the head then knows the gradient of each logit while it has them, in the forward.
        """
        return False

    @property
    def smoothing(self) -> float:
        """Label smoothing ε while training: `logp` is (1 − ε) · log p(label) + ε · mean over V of log p."""
        return 0.0


class Likelihood(Objective):
    """Objectives that minimize a weighted mean negative log-likelihood: −Σ weight · log p(label) / Σ weight."""

    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Probability spread evenly over the vocabulary, in training only."
    )

    @property
    def smoothing(self) -> float:
        return self.label_smoothing

    @property
    def weighted(self) -> bool:
        return True

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        return Loss({"nll": Term(-(batch.weight * scores["logp"]).sum(), "token")})


def smoothed_nll(logits: Tensor, label: Tensor, smoothing: float = 0.0) -> Tensor:
    """[N, C] logits, [N] labels → [N] cross-entropy with label smoothing (Szegedy et al. 2015, arXiv 1512.00567).

    smoothing  ε: (1 − ε) · −log p(label) + ε · mean over C of −log p
    """
    logp = logits.log_softmax(-1)  # [N, C]
    nll = -logp.gather(-1, label[:, None]).squeeze(-1)  # [N]
    return nll if not smoothing else (1 - smoothing) * nll - smoothing * logp.mean(-1)


def completion_row(record: Posed | Preference | Unpaired, completion: Answer, codec: Codec) -> Row:
    """The row of a record's prompt and a completion, which carries the loss."""
    return codec.encode_completion(record.where, record.prompt, completion, record.tools, record.variables)
