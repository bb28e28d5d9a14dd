"""The result of the demo in the terminal."""

from __future__ import annotations

from pathlib import Path

from bottega.cli.demo_view import show_demo
from making import printed

SUMMARY = {
    "gain_interval": [0.1, 0.25],
    "base_asked": {"zero-shot": 0.4, "few-shot": 0.6},
    "base_accuracy": 0.6,
    "tuned_accuracy": 0.8,
    "pretrain_loss": 1.234,
    "bigram_entropy": 2.5,
    "fields_accuracy": 0.75,
    "preference_accuracy": 0.9,
    "length_heuristic_accuracy": 0.5,
    "train_seconds": 61.4,
    "verdict": "Better: by [a lot].",
    "seed": 4,
}


def test_the_demo_shows_its_metrics_a_conversation_and_commands() -> None:
    conversation = [("Which topic? [1]", "refund"), ("Which fields?", "{}")]
    text = printed(show_demo, Path("runs/demo"), SUMMARY, conversation)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "validation loss of pre-training, nats per token 1.23",
        "topic accuracy on unseen letters, before tuning 60.0% (few-shot)",
        "topic accuracy on unseen letters, tuned 80.0%",
        "difference, 95 % interval +10% to +25%",
        "training time 61 s",
        "you › Which topic? [1]",
        "model › refund",
        "The verdict on the fine-tuning, from runs/demo/tuned/report.html",
        "Better: by [a lot].",
        "bottega chat runs/demo/aligned --temperature 0",
        "bottega demo --seed 5",
    ):
        assert line in lines
