"""Greedy decoding of a group of rows, as chat and evaluation do it, beside transformers' generate.

    python benchmarks/decoding.py [--dtype bfloat16 int8] [--rounds 5] [--out FILE]

With the shapes of a model of 135 million parameters and no end tokens, 96 tokens each: one row; 16 rows of ragged
lengths; 8 continuations of each of 4 prompts. transformers computes the same as one batch, padded on the left. Both
take turns in one process, and medians are shown. transformers has no int8; beside ours stands its model in
bfloat16, or in float32 where the processor does not multiply that.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import training_dtype, write_result
from serving import generate_padded, words
from workloads import make_model, make_tokenizer

from bottega.hardware.process import configure
from bottega.inference.generator import Writer
from bottega.inference.language_model import load_language_model
from bottega.sampling import Sampling

TOKENS = 96


def prompts_of(draw: np.random.Generator) -> dict[str, tuple[list[list[int]], int]]:
    """By name of the work: its prompts, and the continuations of each."""
    return {
        "one row": ([words(draw, 40)], 1),
        "16 ragged rows": ([words(draw, int(length)) for length in draw.lognormal(4.0, 0.8, 16).clip(8, 400)], 1),
        "4 prompts, 8 continuations each": ([words(draw, int(draw.integers(60, 240))) for _ in range(4)], 8),
    }


def ours(writer: Writer, prompts: list[list[int]], continuations: int) -> float:
    """Seconds."""
    start = time.perf_counter()
    writer.write(prompts, Sampling(tokens=TOKENS, temperature=0), continuations=continuations)
    return time.perf_counter() - start


def theirs(network: Any, prompts: list[list[int]], continuations: int) -> float:
    start = time.perf_counter()
    generate_padded(network, [prompt for prompt in prompts for _ in range(continuations)], TOKENS)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=sorted({training_dtype(), "int8", "float32"}))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    configure()
    import transformers

    lines = ["| dtype | what | bottega, ms a token | transformers | ratio |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder, "135m")
        make_tokenizer(folder)
        for dtype in options.dtype:
            writer = load_language_model(folder, dtype=dtype).writer
            writer.ends = frozenset()
            model: Any = transformers.AutoModelForCausalLM
            its_dtype = getattr(torch, training_dtype() if dtype == "int8" else dtype)
            network = model.from_pretrained(folder, dtype=its_dtype).eval()
            network.generation_config.eos_token_id = None
            for name, (prompts, continuations) in prompts_of(np.random.default_rng(0)).items():
                # The first of each is not counted.
                pairs = [
                    (ours(writer, prompts, continuations), theirs(network, prompts, continuations))
                    for _ in range(options.rounds + 1)
                ]
                mine, other = (median(times) / TOKENS * 1e3 for times in zip(*pairs[1:], strict=True))
                lines.append(f"| {dtype} | {name} | {mine:.1f} | {other:.1f} | {other / mine:.2f} |")
                print(lines[-1], flush=True)
    write_result("Greedy decoding", "\n".join(lines), options.out)


if __name__ == "__main__":
    main()
