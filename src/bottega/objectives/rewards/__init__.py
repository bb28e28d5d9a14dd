"""What an answer that the policy wrote is worth: one file a reward, found by its file name.

To add one, write `rewards/<kind>.py` with one subclass of `Reward`; its fields are its options in the recipe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny

from bottega import plugins
from bottega.metrics import answers
from bottega.records import Posed


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """An answer to what was posed: its text, how many tokens it took, and whether it came to an end by itself."""

    record: Posed
    text: str
    tokens: int
    ended: bool


ScoreWithModel = Callable[[str, Sequence[SampledAnswer]], Sequence[float]]
"""(name of a reward model, answers) → a score of each."""


class RewardFunction(BaseModel, ABC):
    """What an answer is worth.

    To write one, give it options as fields, and the method.

    weight     what its marks are taken times before they are added to those of other rewards
    compares   it compares with the right answer: rows without one are left out
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    compares: ClassVar[bool] = False

    kind: str
    weight: float = Field(1.0, description="What its marks are taken times before they are added to others'.")

    @property
    def name(self) -> str:
        """As it is called among the metrics of a run."""
        return self.kind

    def check(self) -> None:
        """Raises where it could not mark anything: called before a run begins."""

    @abstractmethod
    def scores(self, written: Sequence[SampledAnswer], judge: ScoreWithModel) -> Sequence[float]:
        """A number for each answer, more for a better one."""


def kinds() -> list[str]:
    """Every reward in the folder, by name."""
    return plugins.module_names(__path__)


def load(kind: str) -> type[RewardFunction]:
    """The class of `rewards/<kind>.py`."""
    return plugins.load_class(__name__, kind, RewardFunction)


def _parse_reward(value: Any) -> Any:
    """A reward by its options, or by a name alone: that of a metric, or of a kind that needs no option."""
    if isinstance(value, str):
        value = {"kind": "metric", "metric": value} if value in answers.metric_names() else {"kind": value}
    if isinstance(value, RewardFunction) or not isinstance(value, Mapping):
        return value
    if value.get("kind") not in kinds():
        known = ", ".join([*kinds(), *answers.metric_names()])
        raise ValueError(f"unknown reward {value.get('kind')!r}; known: {known}")
    return load(value["kind"]).model_validate(dict(value))


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Rewards = Annotated[
    list[Annotated[SerializeAsAny[RewardFunction], BeforeValidator(_parse_reward)]],
    Field(min_length=1),
    BeforeValidator(_as_list),
]
"""One reward or several, each by its options or its name."""
