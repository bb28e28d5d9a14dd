"""What the peers' scripts share: arguments, the clock, the settings of a trainer, the line they print."""

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
    """Seconds of each update, from its first micro-batch to its last change of a weight, and the tokens it is given."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.tokens: list[int] = []

    def count(self, trainer: Any) -> None:
        """Count the tokens of each batch that are no padding."""
        whole = trainer.training_step

        def counting(model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
            mask = inputs.get("attention_mask")
            self.tokens.append(int(inputs["input_ids"].numel() if mask is None else mask.sum()))
            return whole(model, inputs, *arguments, **options)

        trainer.training_step = counting

    def on_step_begin(self, *args: object, **kwargs: object) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def arguments(*works: str) -> argparse.Namespace:
    """`WORK FOLDER --updates N --examples N` and the switches."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=works)
    parser.add_argument("folder")
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--examples", type=int, required=True)
    parser.add_argument("--full", action="store_true", help="train every weight, not a LoRA")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--no-checkpointing", action="store_true")
    return parser.parse_args()


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The trainer's settings; whatever is not named here is the peer's default."""
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
        "bf16": True,
        **({"packing": True} if options.packing else {}),
        **({"gradient_checkpointing": False} if options.no_checkpointing else {}),
    }


def rewarded(path: str) -> Callable[..., list[float]]:
    """The reward in a file, as TRL takes one."""
    score = runpy.run_path(path)["score"]

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [score(one, "") for one in completions]

    return reward


def report(seconds: list[float], **more: float | list[int]) -> None:
    """One JSON line: seconds of each update, peak bytes of the process, and when the last update was done."""
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "memory": memory, "ended": time.time(), **more}))
