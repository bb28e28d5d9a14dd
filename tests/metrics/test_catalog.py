"""One id and one name for every metric; former names are still accepted."""

from __future__ import annotations

import re

import pytest

from bottega.evaluation.estimates import Estimate
from bottega.evaluation.verdict import PRIMARY_METRICS, decide_verdict
from bottega.metrics import answers
from bottega.metrics.answers import load_metric
from bottega.metrics.catalog import METRICS, metric_label, resolve_metric


@pytest.mark.parametrize(
    ("name", "metric"),
    [("accuracy", "accuracy"), ("label accuracy", "accuracy"), ("macro-F1", "f1_macro"),
     ("nearest is right", "accuracy_at_1"), ("reward, exact", "reward/exact"), ("mine", "mine"),
     ("loss on a.txt", "general_loss/a.txt"), ("right", "masked_accuracy"), ("mean reciprocal rank", "mrr")],
)  # fmt: skip
def test_former_names_of_metrics_are_accepted(name: str, metric: str) -> None:
    assert resolve_metric(name, ()) == metric
    found = Estimate(metric, 100, 0.8, 0.7, (0.1, 0.2), True, error=0.025)
    assert decide_verdict([found], metric=name, margin=0, base="it").metric == metric


def test_a_metric_has_one_id_and_one_name() -> None:
    names = [name for info in METRICS.values() for name in {info.id, info.label, *info.aliases}]
    assert len(names) == len(set(names))
    assert all(re.fullmatch("[a-z0-9_]+", name) for name in METRICS)
    assert set(PRIMARY_METRICS) <= set(METRICS)
    assert {load_metric(name).name for name in answers.metric_names()} <= set(METRICS)
    assert metric_label("reward/exact") == "reward, exact"
    assert metric_label("arc_easy: acc") == "arc_easy: acc"


def test_a_user_metric_named_like_a_former_id_keeps_its_name() -> None:
    """A user's metric may have a name that was the id of another one in an earlier version."""
    assert resolve_metric("right", ("right", "masked_accuracy")) == "right"
    assert resolve_metric("right", ("masked_accuracy",)) == "masked_accuracy"


def test_metric_labels() -> None:
    assert metric_label("f1_macro") == "macro F1"
    assert metric_label("general_loss/a.txt") == "loss on a.txt"
    for metric in ("reward/exact", "general_loss/a.txt", "f1_macro"):
        assert resolve_metric(metric_label(metric), ()) == metric
