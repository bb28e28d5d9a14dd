"""What happens in a run, as values: the lines of `events.jsonl` and what `train` yields.

Every event has `type`, `step` and `time` (Unix seconds). Field names are a contract: scripts read them.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    type: ClassVar[str]
    step: int
    time: float = field(default_factory=time.time)

    def document(self) -> dict[str, Any]:
        """The event as plain data, `type` first."""
        return {"type": self.type, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """Everything is loaded; the first update comes next. On a resume, `step` is the checkpoint's."""

    type: ClassVar[str] = "started"
    resumed: bool
    steps: int
    examples: int
    validation_examples: int
    parameters: int
    trained_parameters: int
    dtype: str
    device: str
    threads: int
    micro_batch_tokens: int
    lr: float


@dataclass(frozen=True, kw_only=True)
class Noted(Event):
    """Something a user should know: dropped rows, a fallback, a damaged checkpoint passed over."""

    type: ClassVar[str] = "noted"
    subject: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stepped(Event):
    """One update. `tokens` were computed, `tokens_real` is what they stand for had nothing been shared.

    seconds     wall time since the update before, reading data included
    cpu         processor seconds a second of that: 2.0 keeps two cores busy
    memory      peak resident bytes, child processes included; `device_memory` the accelerator's peak
    device_use  share of the time the accelerator was busy of late; None without one, or where it does not tell
    """

    type: ClassVar[str] = "stepped"
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_real: int
    seconds: float
    cpu: float
    memory: int
    device_memory: int
    device_use: float | None
    epoch: float
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Answered(Event):
    """A prompt of an update that learns from the policy's own answers: what it wrote, and what that was worth."""

    type: ClassVar[str] = "answered"
    where: str
    prompt: str
    answers: list[str]
    rewards: list[float]


@dataclass(frozen=True, kw_only=True)
class Validated(Event):
    """The validation rows, scored; `best` says that no validation before had a lower loss."""

    type: ClassVar[str] = "validated"
    loss: float
    metrics: dict[str, float]
    best: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    type: ClassVar[str] = "saved"
    checkpoint: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """The result is in `result` (`model` or `adapter`), with the weights of `weights_from`'s step."""

    type: ClassVar[str] = "finished"
    result: str
    weights_from: int
    reason: str
    loss: float | None
    validation_loss: float | None


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    type: ClassVar[str] = "failed"
    error: str
    message: str
