"""How fast an export is, and how much memory it takes: in a process of its own, which has used none before."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bottega.errors import ModelError

# Tokens generated, or read by a model that generates none, in each of the turns that the median is taken of.
TOKENS, TURNS = 64, 3
# Tokens of the prompt.
PROMPT = 8
# No further turn begins after so many seconds.
PATIENCE = 10.0


class Speed(NamedTuple):
    """Tokens per second of one text at a time, and the bytes of memory that the model adds to its program."""

    tokens_per_second: float
    memory: int


def measure_speed(folder: Path, device: str) -> Speed:
    """Load an export in a new process and time it."""
    command = [sys.executable, "-m", __name__, str(folder), device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"it cannot be timed: {reason}", where=str(folder), fix="choose another format")
    return Speed(*json.loads(done.stdout.splitlines()[-1]))


def _measure(folder: Path, device: str) -> Speed:
    from bottega.hardware.memory import resident_bytes

    # Imports what a model needs before memory is looked at.
    from bottega.inference import loader  # noqa: F401

    before = resident_bytes()
    run, tokens = _prepare(folder, device)
    times: list[float] = []
    while len(times) <= TURNS and sum(times) < PATIENCE:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    # The first turn is slower: it is left out, unless there is no other.
    times = times[1:] or times
    return Speed(tokens / median(times), resident_bytes() - before + _device_bytes(device))


def _prepare(folder: Path, device: str) -> tuple[Callable[[], Any], int]:
    """(what generates tokens, or reads them at once; how many)."""
    import numpy as np

    from bottega.inference.generator import Writer
    from bottega.inference.open_model import open_model
    from bottega.inference.runtimes import open_runtime
    from bottega.models import heads
    from bottega.models.config import load_stored_config, position_limit
    from bottega.runs.export_info import read_export_info
    from bottega.sampling import Sampling

    info = read_export_info(folder)
    limit = position_limit(load_stored_config(str(folder))) or 2 * TOKENS
    prompt = [number % 7 for number in range(min(PROMPT, limit // 2))]
    if not heads.load(info.head).autoregressive:
        runtime = open_runtime(info.runtime, folder, info.head)
        row = np.resize(prompt, min(TOKENS, limit))
        return lambda: runtime.logits(row), len(row)
    opened = open_model(str(folder), info.head, device=device)
    scorer, tokens = opened.scorer, min(TOKENS, limit - len(prompt))
    # No token ends it.
    writer = Writer(
        scorer.network,
        opened.tokenizer,
        frozenset(),
        packed=scorer.fit.packed,
        reset_row_state=scorer.reset_row_state,
    )
    return lambda: writer.write([prompt], Sampling(tokens=tokens)), tokens


def _device_bytes(device: str) -> int:
    """Peak memory of the GPU."""
    import torch

    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]), sys.argv[2])))
