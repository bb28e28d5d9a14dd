"""Events: what is written is read back, and logs of other versions are read tolerantly."""

from __future__ import annotations

import json
import math

import pytest

from bottega.events import EVENTS, Event, Failed, Finished, Noted, Stepped, Validated, parse

STEPPED = Stepped(
    step=3, loss=1.5, lr=1e-3, grad_norm=0.5, tokens=10, tokens_real=12, seconds=0.1, cpu=1.0, memory=5,
    device_memory=0, device_use=None, epoch=0.5, metrics={"accuracy": 0.25},
)  # fmt: skip


@pytest.mark.parametrize(
    "event",
    [
        STEPPED,
        Noted(step=0, subject="dropped", message="2 rows", details={"too long": 2}),
        Validated(step=4, loss=1.0, metrics={}, best=True, seconds=0.5),
        Finished(step=9, result="model", weights_from=4, reason="all steps done", loss=None, validation_loss=1.0),
    ],
    ids=lambda event: event.type,
)
def test_a_logged_event_reads_back(event: Event) -> None:
    assert parse(json.loads(json.dumps(event.document()))) == event


@pytest.mark.parametrize("kind", EVENTS)
def test_every_type_reads_from_a_log_that_lacks_its_fields(kind: str) -> None:
    event = parse({"type": kind, "step": 7})
    assert type(event) is EVENTS[kind]
    assert (event.type, event.step, event.time) == (kind, 7, 0.0)


def test_missing_fields_are_unknown_not_wrong() -> None:
    event = parse({"type": "stepped", "step": 1, "time": 5.0, "loss": 2.0})
    assert isinstance(event, Stepped)
    assert (event.loss, event.memory, event.device_use, event.metrics) == (2.0, 0, None, {})
    assert math.isnan(event.seconds)
    failed = parse({"type": "failed", "step": 0})
    assert isinstance(failed, Failed)
    assert (failed.error, failed.message) == ("", "")


def test_unknown_fields_and_types_are_no_error() -> None:
    assert parse({**STEPPED.document(), "added_later": 1}) == STEPPED
    event = parse({"type": "added_later", "step": 2, "value": 1})
    assert (type(event), event.type, event.step) == (Event, "unknown", 2)
