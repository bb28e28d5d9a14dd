"""One accelerator: first what must be equal on it, then what it takes, beside TRL with Liger in the same sitting.

    python benchmarks/gpu.py [--cpu] [--whole] [--prove | --measure] [--only NAME …] [--profile NAME] [--peers]

Models have random weights, and the shapes of those people use. Utilisation is the arithmetic that a step cannot do
without, each matrix forward and backward for what is trained, over what the card's own matrix product reaches at its
best; tokens are those of the rows as one would write them out. `--cpu` does the same on a CPU with a tiny shape, and
there proves all but FlexAttention's gradients, which no CPU has.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from machine import described
from proofs import prove  # before torch computes anything
from transformers import AutoConfig
from workloads import REWARD, documents, instructions, make_tokenizer, posed, preferences, real_tokens, write

from bottega.batch import Batch, count_units
from bottega.models import heads
from bottega.models.quantization.linear import quantize_model
from bottega.objectives import HeadKind
from bottega.recipe.schema import Model, Quantize, Recipe
from bottega.seeding import derive
from bottega.training import setup
from bottega.training.needs import micro_batches
from bottega.training.setup import Run, build
from bottega.training.step import sample_examples

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "llama 1B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "qwen 7B": {
        "model_type": "llama",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "gpt 124M": {
        "model_type": "llama",
        "vocab_size": 50304,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "tie_word_embeddings": True,
    },
    "moe": {
        "model_type": "qwen3_moe",
        "vocab_size": 50304,
        "hidden_size": 1024,
        "moe_intermediate_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "num_experts": 32,
        "num_experts_per_tok": 4,
        "tie_word_embeddings": True,
    },
}
LORA = {"rank": 16, "alpha": 32}

# Updates of a measurement, and how many of them come before the clock.
UPDATES, WARM = 7, 3


@dataclass(frozen=True)
class Work:
    """What is measured: a shape, a method, and rows.

    examples  of an update
    tokens    most of a micro-batch
    quantize  how the base of an adapter is kept
    offload   activations wait in the host's memory
    answers   written to each prompt, and tokens of each, where it learns from those
    peer      what TRL calls it, and how many rows it is to try at once, halved until they fit
    """

    shape: str
    objective: str
    adapter: bool
    rows: Callable[[int], list[dict[str, str]]]
    examples: int
    tokens: int
    peer: tuple[str, int] | None = None
    quantize: Quantize = "none"
    answers: tuple[int, int] | None = None
    offload: bool = False


def long_rows(rows: int) -> list[dict[str, str]]:
    """A prompt of 24 words and an answer of about a thousand."""
    made = preferences(rows, 24, 1000)
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in made]


WORKS = {
    "SFT 1B, every weight": Work("llama 1B", "sft", False, instructions, 256, 40960),
    "SFT 1B, every weight, long rows": Work("llama 1B", "sft", False, long_rows, 32, 40960, ("sft", 32)),
    "SFT 1B, LoRA": Work("llama 1B", "sft", True, instructions, 256, 40960, ("sft", 128)),
    "SFT 1B, LoRA, micro-batches of 16,384": Work("llama 1B", "sft", True, instructions, 256, 16384),
    "SFT 1B, LoRA, micro-batches of 8,192": Work("llama 1B", "sft", True, instructions, 256, 8192),
    "SFT 1B, LoRA, micro-batches of 4,096": Work("llama 1B", "sft", True, instructions, 256, 4096),
    "DPO 1B, LoRA": Work("llama 1B", "dpo", True, preferences, 64, 40960, ("dpo", 32)),
    "pre-training 124M": Work("gpt 124M", "causal", False, lambda rows: documents(rows, 1024), 64, 65536),
    "pre-training MoE": Work("moe", "causal", False, lambda rows: documents(rows, 1024), 32, 32768),
    "SFT 7B, LoRA": Work("qwen 7B", "sft", True, instructions, 128, 16384, ("sft", 32)),
    "SFT 7B, LoRA, activations sent away": Work("qwen 7B", "sft", True, instructions, 128, 16384, offload=True),
    "SFT 7B, LoRA on 4 bits": Work("qwen 7B", "sft", True, instructions, 128, 16384, quantize="nf4"),
    "SFT 7B, LoRA on 8 bits": Work("qwen 7B", "sft", True, instructions, 128, 16384, quantize="fp8"),
    "GRPO 1B, LoRA": Work("llama 1B", "grpo", True, posed, 32, 40960, ("grpo", 32), answers=(8, 128)),
    "GRPO 7B, LoRA": Work("qwen 7B", "grpo", True, posed, 16, 16384, answers=(8, 128)),
    "SFT 7B, LoRA, long rows": Work("qwen 7B", "sft", True, long_rows, 16, 20480),
    "DPO 7B, LoRA": Work("qwen 7B", "dpo", True, preferences, 32, 16384, ("dpo", 8)),
}
TINY = {
    "SFT tiny, LoRA": Work("tiny", "sft", True, instructions, 4, 2048),
    "SFT tiny, LoRA on 4 bits": Work("tiny", "sft", True, instructions, 4, 2048, quantize="nf4"),
    "SFT tiny, LoRA on 8 bits": Work("tiny", "sft", True, instructions, 4, 2048, quantize="fp8"),
    "DPO tiny, LoRA": Work("tiny", "dpo", True, preferences, 2, 2048),
    "GRPO tiny, LoRA": Work("tiny", "grpo", True, posed, 2, 2048, answers=(4, 32)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="the same on a CPU, with a tiny shape")
    parser.add_argument("--whole", action="store_true", help="prove every objective with every architecture")
    parser.add_argument("--prove", action="store_true", help="prove only")
    parser.add_argument("--measure", action="store_true", help="measure only")
    parser.add_argument("--proofs", nargs="+", default=[], help="proofs of these names")
    parser.add_argument("--only", nargs="+", default=[], help="works of these names")
    parser.add_argument("--profile", default="", help="also print the kernels of one update of this work")
    parser.add_argument("--peers", action="store_true", help="beside TRL with Liger, which must be installed")
    options = parser.parse_args()
    device = "cpu" if options.cpu else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device is here; --cpu does what can be done without one")
    print(f"{named(device)}; {described()}", flush=True)
    failed = [] if options.measure else prove(device, options.whole, options.proofs)
    if options.cpu and not options.measure:
        print("FlexAttention has no gradients on a CPU: those were not proved.")
    if not options.prove:
        measured(TINY if options.cpu else WORKS, options, device)
    if failed:
        sys.exit(f"{len(failed)} not equal: {'; '.join(failed)}")


def named(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "a CPU"


def measured(works: dict[str, Work], options: argparse.Namespace, device: str) -> None:
    """Print a table as it comes to be."""
    most = ceiling(device)
    print(f"a matrix product of 8,192: {most / 1e12:.0f} TFLOP/s\n")
    print("| work | tokens/s | of the ceiling | peak GB | TRL tokens/s | TRL peak GB | times |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in options.only or works:
        work = works[name]
        with tempfile.TemporaryDirectory() as folder:
            try:
                mine = ours(Path(folder), work, device, profiled=options.profile == name)
            except Exception as error:  # the next work is to be measured all the same
                print(f"| {name} | {type(error).__name__}: {str(error)[:200]} |", flush=True)
                continue
            wrote = f", of which {mine.writing:.0%} of the time to write" if mine.writing else ""
            line = f"| {name}{wrote} | {mine.speed:,.0f} | {mine.flops / most:.1%} | {mine.memory / 1e9:.1f} |"
            if options.peers and work.peer:
                line += theirs(Path(folder), work, mine)
            print(line, flush=True)


@dataclass(frozen=True)
class Measured:
    """speed in tokens of the rows as written a second, flops in useful ones a second, memory in peak bytes.

    writing  share of the time in which answers are written; their arithmetic is not among the useful
    """

    speed: float
    flops: float
    memory: float
    writing: float = 0.0


def ceiling(device: str) -> float:
    """FLOP/s of a large product in bfloat16, on random numbers."""
    size = 8192 if device == "cuda" else 512
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(12):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(5):
            one @ other
        synchronize(device)
        times.append((time.perf_counter() - started) / 5)
    return 2.0 * size**3 / sorted(times)[len(times) // 2]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def ours(folder: Path, work: Work, device: str, profiled: bool) -> Measured:
    """Some updates of a recipe, packing and what a reference says included, the first of them left out."""
    rows = prepared(folder, work)
    with built_on(device):
        run = build(recipe(folder, work, device))
    updates = list(islice(run.sampler.updates(), UPDATES))
    flops, tokens, started, writing = 0.0, 0, 0.0, 0.0
    for number, update in enumerate(updates):
        if number == WARM:
            synchronize(device)
            started = time.perf_counter()
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
        batches, wrote = stepped(run, update)
        if number >= WARM:
            writing += wrote
            tokens += sum(batch.tokens_real for batch in batches)
            flops += sum(useful(run, batch) for batch in batches)
    synchronize(device)
    seconds = time.perf_counter() - started
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    if profiled:
        profile(run, updates[-1], device)
    del run, rows
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return Measured(tokens / seconds, flops / seconds, memory, writing / seconds)


def stepped(run: Run, update: Any) -> tuple[list[Batch], float]:
    """(what an update learned from, seconds in which that was written)"""
    started = time.perf_counter()
    drawn = sample_examples(run, update).examples
    wrote = time.perf_counter() - started if run.rollouts is not None else 0.0
    batches = micro_batches(run, drawn)
    seed = partial(derive, run.recipe.seed, "dropout", update.step)
    objective = run.recipe.objective
    run.engine.accumulate(objective, batches, count_units(batches), step=update.step, dropout_seed=seed)
    run.engine.update(run.choices.lr, step=update.step)
    return batches, wrote


def profile(run: Run, update: Any, device: str) -> None:
    """Where one update's time goes, by kernel and by what the host does."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with recorded(activities=activities) as found:
        started = time.perf_counter()
        stepped(run, update)
        synchronize(device)
        print(f"one update: {time.perf_counter() - started:.3f} s")
    averages = found.key_averages()
    print(
        averages.table(
            sort_by="self_device_time_total" if device == "cuda" else "self_cpu_time_total",
            row_limit=28,
            max_name_column_width=60,
        )
    )


def prepared(folder: Path, work: Work) -> list[dict[str, str]]:
    rows = work.rows(work.examples * UPDATES)
    write(rows, folder / "rows.jsonl")
    make_tokenizer(folder / "model", SHAPES[work.shape]["vocab_size"])
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    AutoConfig.for_model(**SHAPES[work.shape], **tokens).save_pretrained(folder / "model")
    return rows


def recipe(folder: Path, work: Work, device: str) -> Recipe:
    found: dict[str, Any] = {
        "model": {"base": str(folder / "model"), "dtype": "bfloat16", "quantize": work.quantize},
        "adapter": LORA if work.adapter else None,
        "data": {"train": str(folder / "rows.jsonl"), "max_length": 2048},
        "objective": {"kind": work.objective, **written(work)},
        "optim": {"steps": UPDATES, "examples": work.examples, "tokens": work.tokens, "lr": 1e-5}
        | {"offload": work.offload},
        "devices": {"device": device},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(found), encoding="utf-8")
    return Recipe.load(folder / "recipe.yaml")


def written(work: Work) -> dict[str, Any]:
    """What an objective is told of the answers it learns from."""
    if work.answers is None:
        return {}
    group, tokens = work.answers
    return {"group": group, "tokens": tokens, "rewards": [{"kind": "custom", "file": "reward.py"}]}


@contextmanager
def built_on(device: str) -> Iterator[None]:
    """Inside, models are drawn on the device by their configs: a CPU takes minutes for billions of random numbers."""
    whole = setup.load_model

    def drawn(
        wanted: Model, config: Any, head: HeadKind, labels: Any, dtype: torch.dtype, *__: Any
    ) -> tuple[Any, list[str]]:
        with torch.device(device):
            model = heads.load(head).auto_class(config).from_config(config, dtype=dtype)
        if wanted.quantize != "none":
            quantize_model(model, wanted.quantize, [])
        return model, []

    setup.load_model = drawn
    try:
        yield
    finally:
        setup.load_model = whole


def useful(run: Run, batch: Batch) -> float:
    """Arithmetic that nothing can do without: matrices of active weights, attention over what is seen, the head."""
    config = run.engine.scorer.network.config
    trained = run.recipe.adapter is None
    layers, width = config.num_hidden_layers, config.hidden_size
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    inner, active = config.intermediate_size, 1
    if getattr(config, "num_experts", None):
        inner, active = config.moe_intermediate_size, config.num_experts_per_tok
    wide, narrow = head * config.num_attention_heads, head * config.num_key_value_heads
    weights = layers * (2 * width * wide + 2 * width * narrow + 3 * active * width * inner)
    # Key k is seen from its own place to the end of its subtree.
    pairs = float((batch.last - batch.first).sum())
    attention = 4.0 * pairs * wide * layers
    scores = 2.0 * len(batch.at) * width * config.vocab_size
    forward = 2.0 * len(batch.tokens) * weights
    total = (3 if trained else 2) * (forward + scores) + 3 * attention
    if not trained:
        sides = 2 * (width + wide) + 2 * (width + narrow) + 3 * (width + inner)
        total += 6.0 * len(batch.tokens) * layers * LORA["rank"] * sides
    if "reference" in batch.columns:
        total += forward + scores + attention
    return total


def theirs(folder: Path, work: Work, mine: Measured) -> str:
    """TRL with Liger on the same rows, as the end of a line of the table."""
    script = Path(__file__).parent / "peers" / "trl_gpu.py"
    assert work.peer is not None
    kind, batch = work.peer
    command = [sys.executable, str(script), kind, str(folder), "--updates", str(UPDATES), "--warm", str(WARM)]
    command += ["--examples", str(work.examples), "--batch", str(batch), *([] if work.adapter else ["--full"])]
    group, tokens = work.answers or (0, 0)
    command += ["--group", str(group), "--tokens", str(tokens)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        return f" {done.stderr.strip().splitlines()[-1][:200]} |"
    found = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    taken = rows[: found["rows"]]
    # Models of random weights end no answer before its time.
    answered = sum(group * (len(row["prompt"].split()) + tokens) for row in taken) if group else 0
    speed = (answered or real_tokens(taken)) / found["seconds"]
    liger = "" if found["liger"] else ", without Liger"
    return f" {speed:,.0f} ({found['batch']} a batch{liger}) | {found['memory'] / 1e9:.1f} | {mine.speed / speed:.2f} |"


if __name__ == "__main__":
    main()
