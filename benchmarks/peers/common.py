"""What the peers' scripts have in common: arguments, the clock, trainer settings, and the line they print."""

from __future__ import annotations

import argparse
import json
import resource
import runpy
import tempfile
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class Clock(TrainerCallback):
    """Seconds of each update, from its first micro-batch to the end of the optimizer step, and tokens of each batch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.tokens: list[int] = []

    def count(self, trainer: Any) -> None:
        """Count the tokens of each batch of the trainer, without padding."""
        training_step = trainer.training_step

        def count_and_step(model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
            mask = inputs.get("attention_mask")
            self.tokens.append(int(inputs["input_ids"].numel() if mask is None else mask.sum()))
            return training_step(model, inputs, *arguments, **options)

        trainer.training_step = count_and_step

    def on_step_begin(self, *args: object, **kwargs: object) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def parse_arguments(*kinds: str) -> argparse.Namespace:
    """The arguments `KIND FOLDER --updates N --examples N`, and switches."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("folder")
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--examples", type=int, required=True)
    parser.add_argument("--full", action="store_true", help="full fine-tuning instead of LoRA")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    return parser.parse_args()


def trainer_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The trainer's settings; all others are the peer's defaults."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": options.examples,
        "max_steps": options.updates,
        "learning_rate": 1e-4,
        "max_length": 1024,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1000,
        "use_cpu": True,
        "bf16": options.dtype == "bfloat16",
        **({"packing": True} if options.packing else {}),
        **({"gradient_checkpointing": False} if options.no_checkpointing else {}),
    }


def load_reward(path: str) -> Callable[..., list[float]]:
    """The function `score` in a file, as a reward function of TRL."""
    score = runpy.run_path(path)["score"]

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [score(completion, "") for completion in completions]

    return reward


def report(seconds: list[float], **extra: float | list[int]) -> None:
    """Print one JSON line: seconds of each update, peak bytes of the process, and the time at the end."""
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "memory": memory, "ended": time.time(), **extra}))
