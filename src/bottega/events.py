"""What happens in a run, as values: the lines of `events.jsonl`, and what `train` yields.

Every event has `type`, `step` and `time` (Unix seconds). Types and field names are a contract: scripts read them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """What all events have in common; by itself, an event of a type this version does not know."""

    type: ClassVar[str] = "unknown"
    step: int
    # Seconds since 1970, UTC; set when the event happens.
    time: float = field(default_factory=time.time)

    def document(self) -> dict[str, Any]:
        """The event as plain data, `type` first."""
        # `type` belongs to the class, so asdict leaves it out.
        return {"type": self.type, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """Everything is loaded, and the first update comes next. On a resume, `step` is the checkpoint's."""

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
    """Something the user should know: dropped rows, a fallback, a damaged checkpoint that was skipped."""

    type: ClassVar[str] = "noted"
    subject: str
    message: str
    # Counts by reason, such as {"too long": 12}.
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stepped(Event):
    """One update.

    tokens         tokens computed, shared prefixes counted once
    tokens_real    tokens of all rows, as if nothing were shared
    seconds        wall time since the previous update, reading data included
    cpu            CPU seconds per second of wall time: 2.0 is two busy cores
    memory         peak resident memory in bytes, child processes included
    device_memory  peak memory of the accelerator in bytes
    device_use     recent fraction of time the accelerator was busy; None without one, or if it does not report it
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
    # Passes over the rows so far, with fractions.
    epoch: float
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Answered(Event):
    """A prompt of an on-policy update, the answers sampled from the policy, and their rewards."""

    type: ClassVar[str] = "answered"
    where: str
    prompt: str
    answers: list[str]
    rewards: list[float]


@dataclass(frozen=True, kw_only=True)
class Validated(Event):
    """The scores on the validation rows; `best` if no validation before had a lower loss."""

    type: ClassVar[str] = "validated"
    loss: float
    metrics: dict[str, float]
    best: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    """A checkpoint is complete on disk; `checkpoint` is the name of its folder."""

    type: ClassVar[str] = "saved"
    checkpoint: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """The result is in the folder `result` (`model` or `adapter`), with the weights of step `weights_from`."""

    type: ClassVar[str] = "finished"
    result: str
    weights_from: int
    # Why it ended: all steps done, early stopping, forgetting …
    reason: str
    # None if the run had no update or no validation.
    loss: float | None
    validation_loss: float | None


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The run ended with an error; `error` is the name of its class."""

    type: ClassVar[str] = "failed"
    error: str
    message: str


EVENTS: dict[str, type[Event]] = {
    event.type: event for event in (Started, Noted, Stepped, Answered, Validated, Saved, Finished, Failed)
}

# Values of fields that are missing from a log, by their annotation (strings, because of the __future__ import). A
# number that was not recorded is NaN where the type has one.
_MISSING: dict[str, Any] = {"int": 0, "float": math.nan, "str": "", "bool": False}


def parse(document: Mapping[str, Any]) -> Event:
    """The event of one line of `events.jsonl`, read tolerantly.

    Fields this version does not know are ignored. Fields an earlier version did not write are None where that is
    allowed, else NaN, 0, empty or False; a missing `time` is 0. An unknown type becomes a plain `Event`.
    """
    event = EVENTS.get(str(document["type"]), Event)
    values = {
        item.name: document[item.name] if item.name in document else _missing_value(item) for item in fields(event)
    }
    return event(**values)


def _missing_value(item: Field[Any]) -> Any:
    annotation = str(item.type)
    if item.name == "time":  # its default is the present, which says nothing about an old log
        return 0.0
    if "None" in annotation:
        return None
    if annotation.startswith(("list", "dict")):
        return [] if annotation.startswith("list") else {}
    return _MISSING[annotation]
