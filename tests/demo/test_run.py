"""The demo, much smaller: every figure in its summary is measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bottega.cli.commands import app
from bottega.demo import run as module
from bottega.demo.run import bigram_entropy, run_demo
from bottega.errors import RunError
from bottega.events import Event

FIGURES = {
    "base_accuracy",
    "tuned_accuracy",
    "gain_interval",
    "preference_accuracy",
    "length_heuristic_accuracy",
    "pretrain_loss",
    "bigram_entropy",
    "train_seconds",
    "verdict",
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "DOCUMENTS": 60,
        "VALIDATION_DOCUMENTS": 6,
        "TRAINING_TICKETS": 12,
        "PREFERENCE_PAIRS": 12,
        "TEST_TICKETS": 8,
        "VOCABULARY": 300,
        "REPORT_ROWS": 8,
        "ANSWER_TOKENS": 12,
    }
    for name, size in sizes.items():
        monkeypatch.setattr(module, name, size)
    stages = deepcopy(module.STAGES)
    for name, document in stages.items():
        document["optim"].pop("epochs", None)
        document["optim"].update(steps=3, warmup=0)
        document["model"]["dtype"] = "float32"
        if name == "pretrained":
            document["optim"]["update_tokens"] = 500
            document["model"]["shape"].update(
                max_position_embeddings=2048,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
            )
        else:
            document["optim"]["examples"] = 4
    monkeypatch.setattr(module, "STAGES", stages)


def silent(stage: str, events: Iterator[Event]) -> Iterable[Event]:
    return events


@pytest.mark.usefixtures("small")
def test_the_demo_writes_a_summary_of_its_metrics(tmp_path: Path) -> None:
    done = run_demo(tmp_path / "demo", seed=5, watch=silent, busy=nullcontext)
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary == done.summary
    assert set(summary) >= FIGURES
    assert summary["base_accuracy"] == max(summary["base_asked"].values())
    low, high = summary["gain_interval"]
    assert low <= summary["tuned_accuracy"] - summary["base_accuracy"] <= high
    assert len(done.conversation) == 3
    assert summary["verdict"] in (tmp_path / "demo" / "tuned" / "report.md").read_text()
    held, trained = (
        {json.loads(line)["instruction"] for line in (tmp_path / "demo" / f"{name}.jsonl").read_text().splitlines()}
        for name in ("tasks_held_out", "tasks")
    )
    assert not held & trained


@pytest.mark.usefixtures("small")
@pytest.mark.slow
def test_only_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "not from a demo" in done.stderr
    assert (tmp_path / "precious").exists()
    with pytest.raises(RunError):
        run_demo(tmp_path, watch=silent, busy=nullcontext)
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--language", "it", "--json"])
    assert done.exit_code == 0
    assert set(json.loads(done.stdout)) >= FIGURES
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo")])
    for words in ("Results", "A conversation", "bottega chat", "The verdict on the fine-tuning"):
        assert words in done.stdout


def test_bigram_entropy_is_that_of_the_formula(tmp_path: Path) -> None:
    import bottega
    from making import make_model

    model = bottega.load(make_model(tmp_path, "llama"))
    texts, held_out = ["the cat sat on the mat", "the dog ran"], ["the cat ran"]
    read: dict[str, list[int]] = {text: module._token_ids(model, text) for text in (*texts, *held_out)}
    after = [token for text in texts for token in read[text][1:]]
    pairs = [pair for text in texts for pair in pairwise(read[text])]
    size = len(model.codec.tokenizer)

    def share(one: int, other: int) -> float:
        unigram = (after.count(other) + 1) / (len(after) + size)
        return (pairs.count((one, other)) + unigram) / (sum(pair[0] == one for pair in pairs) + 1)

    nats: list[Any] = [-math.log(share(*pair)) for pair in pairwise(read[held_out[0]])]
    assert bigram_entropy(model, texts, held_out) == pytest.approx(sum(nats) / len(nats))
    total = sum(share(read[texts[0]][1], other) for other in range(size))
    assert total == pytest.approx(1, abs=0.02)
