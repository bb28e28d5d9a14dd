"""Rewards: how good a sampled answer is. Each is one file in this folder, found by its file name.

To add one, write `rewards/<kind>.py` with one subclass of `RewardFunction`; its fields are its options in the recipe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny

from bottega import plugins
from bottega.metrics import answers
from bottega.records import Posed
from bottega.sampling import Sampling


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """An answer sampled from the policy.

    record  what was answered: prompt, reference answer (`right`), and all fields of the row
    tokens  how many the answer has
    ended   it ended by itself, and was not cut at the limit
    """

    record: Posed
    text: str
    tokens: int
    ended: bool


class JudgeModels(Protocol):
    """Models that judge answers; the caller loads each once for all rewards."""

    def __call__(self, name: str, written: Sequence[SampledAnswer], /) -> Sequence[float]:
        """The score that a reward model gives each answer."""

    def ask(self, name: str, messages: Sequence[Mapping[str, Any]], settings: Sampling, /) -> str:
        """What a language model answers."""


class RewardFunction(BaseModel, ABC):
    """How good a sampled answer is; several rewards are added, each times its weight.

    A subclass has its options as fields, and the method `scores`.

    compares  it compares with the reference answer, so rows without one are left out
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    compares: ClassVar[bool] = False

    kind: str
    weight: float = Field(1.0, description="Factor of its scores in the sum of all rewards.")

    @property
    def model_names(self) -> tuple[str, ...]:
        """Reward models that it asks."""
        return ()

    @property
    def judge_names(self) -> tuple[str, ...]:
        """Language models that it asks."""
        return ()

    @property
    def code_files(self) -> tuple[Path, ...]:
        """The user's own Python files that it runs."""
        file = getattr(self, "file", None)
        return (Path(file),) if file else ()

    @property
    def name(self) -> str:
        """Its name among the metrics of a run."""
        return self.kind

    def check(self) -> None:
        """Raise an error if it could score nothing; called before the run begins."""

    @abstractmethod
    def scores(self, answers: Sequence[SampledAnswer], judges: JudgeModels) -> Sequence[float]:
        """A finite number for each answer, higher for a better one."""


# The reward in a file of the user's.
FROM_FILE = "custom"


def kinds() -> list[str]:
    """The names of all rewards."""
    return plugins.module_names(__path__)


def load(kind: str) -> type[RewardFunction]:
    """The class of `rewards/<kind>.py`."""
    return plugins.load_class(__name__, kind, RewardFunction)


def _parse_reward(value: Any) -> Any:
    """A reward from its options, or from a name alone: of a metric, or of a kind that needs no options."""
    if isinstance(value, str):
        value = {"kind": "metric", "metric": value} if value in answers.metric_names() else {"kind": value}
    # Anything else is left to pydantic, which names the key in its error.
    if isinstance(value, RewardFunction) or not isinstance(value, Mapping):
        return value
    if value.get("kind") not in kinds():
        known = ", ".join([*kinds(), *answers.metric_names()])
        raise ValueError(f"unknown reward {value.get('kind')!r}; known: {known}")
    return load(value["kind"]).model_validate(dict(value))


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


# One reward or several, each given by its options or its name. SerializeAsAny: a stored recipe keeps the options of
# each kind, which the type RewardFunction does not have.
Rewards = Annotated[
    list[Annotated[SerializeAsAny[RewardFunction], BeforeValidator(_parse_reward)]],
    Field(min_length=1),
    BeforeValidator(_as_list),
]
