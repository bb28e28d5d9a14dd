"""On one accelerator: first prove that results are equal to the CPU's, then measure, beside TRL with Liger.

    python benchmarks/gpu.py [--cpu] [--whole] [--prove | --measure] [--only NAME …] [--profile NAME] [--peers]

Models have random weights and the shapes of well-known models. Utilization is the FLOPs that an update requires (each
matrix forward, and backward for what is trained) per second, divided by the FLOP/s of a large matrix product on the
same device. Tokens are those of the rows without sharing. `--cpu` does the same on a CPU with a tiny shape, and proves
all but FlexAttention's gradients, which it does not compute on a CPU.
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
from machine import describe_machine
from proofs import prove  # sets an environment variable that must precede the first use of CUDA
from transformers import AutoConfig
from workloads import REWARD, count_tokens, documents, instructions, make_tokenizer, preferences, prompts, write_rows

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

# Updates of a measurement, and how many of them are warm-up, which is not timed.
UPDATES, WARMUP = 7, 3


@dataclass(frozen=True)
class Workload:
    """A measured workload: a shape, a method, and rows.

    examples  per update
    tokens    maximum tokens per micro-batch
    peer      (TRL's name of the method, largest batch size to try; it is halved until it fits)
    quantize  storage of an adapter's base
    answers   of on-policy objectives: (answers per prompt, tokens per answer)
    offload   activations wait in host memory
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


WORKLOADS = {
    "SFT 1B, full fine-tuning": Workload("llama 1B", "sft", False, instructions, 256, 40960),
    "SFT 1B, full fine-tuning, long rows": Workload("llama 1B", "sft", False, long_rows, 32, 40960, ("sft", 32)),
    "SFT 1B, LoRA": Workload("llama 1B", "sft", True, instructions, 256, 40960, ("sft", 128)),
    "SFT 1B, LoRA, micro-batches of 16,384": Workload("llama 1B", "sft", True, instructions, 256, 16384),
    "SFT 1B, LoRA, micro-batches of 8,192": Workload("llama 1B", "sft", True, instructions, 256, 8192),
    "SFT 1B, LoRA, micro-batches of 4,096": Workload("llama 1B", "sft", True, instructions, 256, 4096),
    "DPO 1B, LoRA": Workload("llama 1B", "dpo", True, preferences, 64, 40960, ("dpo", 32)),
    "pre-training 124M": Workload("gpt 124M", "causal", False, lambda rows: documents(rows, 1024), 64, 65536),
    "pre-training MoE": Workload("moe", "causal", False, lambda rows: documents(rows, 1024), 32, 32768),
    "SFT 7B, LoRA": Workload("qwen 7B", "sft", True, instructions, 128, 16384, ("sft", 32)),
    "SFT 7B, LoRA, activation offload": Workload("qwen 7B", "sft", True, instructions, 128, 16384, offload=True),
    "SFT 7B, LoRA on 4 bits": Workload("qwen 7B", "sft", True, instructions, 128, 16384, quantize="nf4"),
    "SFT 7B, LoRA on 8 bits": Workload("qwen 7B", "sft", True, instructions, 128, 16384, quantize="fp8"),
    "GRPO 1B, LoRA": Workload("llama 1B", "grpo", True, prompts, 32, 40960, ("grpo", 32), answers=(8, 128)),
    "GRPO 7B, LoRA": Workload("qwen 7B", "grpo", True, prompts, 16, 16384, answers=(8, 128)),
    "SFT 7B, LoRA, long rows": Workload("qwen 7B", "sft", True, long_rows, 16, 20480),
    "DPO 7B, LoRA": Workload("qwen 7B", "dpo", True, preferences, 32, 16384, ("dpo", 8)),
}
TINY = {
    "SFT tiny, LoRA": Workload("tiny", "sft", True, instructions, 4, 2048),
    "SFT tiny, LoRA on 4 bits": Workload("tiny", "sft", True, instructions, 4, 2048, quantize="nf4"),
    "SFT tiny, LoRA on 8 bits": Workload("tiny", "sft", True, instructions, 4, 2048, quantize="fp8"),
    "DPO tiny, LoRA": Workload("tiny", "dpo", True, preferences, 2, 2048),
    "GRPO tiny, LoRA": Workload("tiny", "grpo", True, prompts, 2, 2048, answers=(4, 32)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="run on a CPU, with a tiny shape")
    parser.add_argument("--whole", action="store_true", help="prove every objective with every architecture")
    parser.add_argument("--prove", action="store_true", help="prove only")
    parser.add_argument("--measure", action="store_true", help="measure only")
    parser.add_argument("--proofs", nargs="+", default=[], help="only proofs of these names")
    parser.add_argument("--only", nargs="+", default=[], help="only workloads of these names")
    parser.add_argument("--profile", default="", help="also print the kernels of one update of this workload")
    parser.add_argument("--peers", action="store_true", help="also measure TRL with Liger, which must be installed")
    options = parser.parse_args()
    device = "cpu" if options.cpu else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device found; --cpu runs on a CPU")
    print(f"{device_name(device)}; {describe_machine()}", flush=True)
    failed = [] if options.measure else prove(device, options.whole, options.proofs)
    if options.cpu and not options.measure:
        print("not proved: FlexAttention's gradients, which it does not compute on a CPU")
    if not options.prove:
        measure(TINY if options.cpu else WORKLOADS, options, device)
    if failed:
        sys.exit(f"{len(failed)} not equal: {'; '.join(failed)}")


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "a CPU"


def measure(workloads: dict[str, Workload], options: argparse.Namespace, device: str) -> None:
    """Print the table, row by row."""
    peak_flops = measure_peak_flops(device)
    print(f"a matrix product of 8,192: {peak_flops / 1e12:.0f} TFLOP/s\n")
    print("| workload | tokens/s | utilization | peak GB | TRL tokens/s | TRL peak GB | speed-up |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in options.only or workloads:
        workload = workloads[name]
        with tempfile.TemporaryDirectory() as folder:
            try:
                ours = measure_bottega(Path(folder), workload, device, with_profile=options.profile == name)
            except Exception as error:  # the next workload is measured all the same
                print(f"| {name} | {type(error).__name__}: {str(error)[:200]} |", flush=True)
                continue
            generation = f" ({ours.generating:.0%} of the time is generation)" if ours.generating else ""
            line = (
                f"| {name}{generation} | {ours.speed:,.0f} | {ours.flops / peak_flops:.1%} | {ours.memory / 1e9:.1f} |"
            )
            if options.peers and workload.peer:
                line += measure_trl(Path(folder), workload, ours)
            print(line, flush=True)


@dataclass(frozen=True)
class Measure:
    """Speed and memory of a workload.

    speed       tokens per second, without sharing
    flops       required FLOPs per second; those of generation are not counted
    memory      peak bytes
    generating  fraction of the time spent generating answers
    """

    speed: float
    flops: float
    memory: float
    generating: float = 0.0


def measure_peak_flops(device: str) -> float:
    """FLOP/s of a large matrix product in bfloat16, on random numbers."""
    size = 8192 if device == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(12):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(5):
            left @ right
        synchronize(device)
        times.append((time.perf_counter() - started) / 5)
    return 2.0 * size**3 / sorted(times)[len(times) // 2]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure_bottega(folder: Path, workload: Workload, device: str, with_profile: bool) -> Measure:
    """Measure some updates, including packing and reference scores, after the warm-up."""
    rows = prepare(folder, workload)
    with built_on(device):
        run = build(make_recipe(folder, workload, device))
    updates = list(islice(run.sampler.updates(), UPDATES))
    flops, tokens, started, generating = 0.0, 0, 0.0, 0.0
    for index, update in enumerate(updates):
        if index == WARMUP:
            synchronize(device)
            started = time.perf_counter()
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
        batches, generation_seconds = step(run, update)
        if index >= WARMUP:
            generating += generation_seconds
            tokens += sum(batch.tokens_real for batch in batches)
            flops += sum(required_flops(run, batch) for batch in batches)
    synchronize(device)
    seconds = time.perf_counter() - started
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    if with_profile:
        print_profile(run, updates[-1], device)
    del run, rows
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return Measure(tokens / seconds, flops / seconds, memory, generating / seconds)


def step(run: Run, update: Any) -> tuple[list[Batch], float]:
    """Make an update; returns (its batches, seconds of generation)."""
    started = time.perf_counter()
    examples = sample_examples(run, update).examples
    generation_seconds = time.perf_counter() - started if run.rollouts is not None else 0.0
    batches = micro_batches(run, examples)
    seed = partial(derive, run.recipe.seed, "dropout", update.step)
    objective = run.recipe.objective
    run.engine.accumulate(objective, batches, count_units(batches), step=update.step, dropout_seed=seed)
    run.engine.update(run.choices.lr, step=update.step)
    return batches, generation_seconds


def print_profile(run: Run, update: Any, device: str) -> None:
    """Print the time of one update by kernel and by operation of the host."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities) as profiler:
        started = time.perf_counter()
        step(run, update)
        synchronize(device)
        print(f"one update: {time.perf_counter() - started:.3f} s")
    averages = profiler.key_averages()
    print(
        averages.table(
            sort_by="self_device_time_total" if device == "cuda" else "self_cpu_time_total",
            row_limit=28,
            max_name_column_width=60,
        )
    )


def prepare(folder: Path, workload: Workload) -> list[dict[str, str]]:
    rows = workload.rows(workload.examples * UPDATES)
    write_rows(rows, folder / "rows.jsonl")
    make_tokenizer(folder / "model", SHAPES[workload.shape]["vocab_size"])
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    AutoConfig.for_model(**SHAPES[workload.shape], **tokens).save_pretrained(folder / "model")
    return rows


def make_recipe(folder: Path, workload: Workload, device: str) -> Recipe:
    document: dict[str, Any] = {
        "model": {"base": str(folder / "model"), "dtype": "bfloat16", "quantize": workload.quantize},
        "adapter": LORA if workload.adapter else None,
        "data": {"train": str(folder / "rows.jsonl"), "max_length": 2048},
        "objective": {"kind": workload.objective, **rollout_options(workload)},
        "optim": {"steps": UPDATES, "examples": workload.examples, "tokens": workload.tokens, "lr": 1e-5}
        | {"offload": workload.offload},
        "devices": {"device": device},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return Recipe.load(folder / "recipe.yaml")


def rollout_options(workload: Workload) -> dict[str, Any]:
    """Options of an on-policy objective; empty for any other."""
    if workload.answers is None:
        return {}
    group, tokens = workload.answers
    return {"group": group, "tokens": tokens, "rewards": [{"kind": "custom", "file": "reward.py"}]}


@contextmanager
def built_on(device: str) -> Iterator[None]:
    """Inside, `setup` makes models on the device: a CPU takes minutes for billions of random weights."""
    original = setup.load_model

    def load_random_model(
        section: Model, config: Any, head: HeadKind, labels: Any, dtype: torch.dtype, *__: Any
    ) -> tuple[Any, list[str]]:
        with torch.device(device):
            model = heads.load(head).auto_class(config).from_config(config, dtype=dtype)
        if section.quantize != "none":
            quantize_model(model, section.quantize, [])
        return model, []

    setup.load_model = load_random_model
    try:
        yield
    finally:
        setup.load_model = original


def required_flops(run: Run, batch: Batch) -> float:
    """FLOPs that a batch requires: products with active weights, attention over visible tokens, the head."""
    config = run.engine.scorer.network.config
    trained = run.recipe.adapter is None
    layers, width = config.num_hidden_layers, config.hidden_size
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    inner, active = config.intermediate_size, 1
    if getattr(config, "num_experts", None):
        inner, active = config.moe_intermediate_size, config.num_experts_per_tok
    wide, narrow = head * config.num_attention_heads, head * config.num_key_value_heads
    weights = layers * (2 * width * wide + 2 * width * narrow + 3 * active * width * inner)
    # Key k is visible from its own position to the end of its subtree.
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


def measure_trl(folder: Path, workload: Workload, ours: Measure) -> str:
    """Measure TRL with Liger on the same rows; returns the end of the table row."""
    script = Path(__file__).parent / "peers" / "trl_gpu.py"
    assert workload.peer is not None
    kind, batch = workload.peer
    command = [sys.executable, str(script), kind, str(folder), "--updates", str(UPDATES), "--warm", str(WARMUP)]
    command += ["--examples", str(workload.examples), "--batch", str(batch), *([] if workload.adapter else ["--full"])]
    group, tokens = workload.answers or (0, 0)
    command += ["--group", str(group), "--tokens", str(tokens)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        return f" {done.stderr.strip().splitlines()[-1][:200]} |"
    result = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    trained_rows = rows[: result["rows"]]
    # A model with random weights hardly ever samples an end token: every answer has its full length.
    answer_tokens = sum(group * (len(row["prompt"].split()) + tokens) for row in trained_rows) if group else 0
    speed = (answer_tokens or count_tokens(trained_rows)) / result["seconds"]
    liger = "" if result["liger"] else ", without Liger"
    memory, speed_up = result["memory"] / 1e9, ours.speed / speed
    return f" {speed:,.0f} ({result['batch']} per batch{liger}) | {memory:.1f} | {speed_up:.2f} |"


if __name__ == "__main__":
    main()
