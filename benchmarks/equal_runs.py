"""Train the same recipes with two versions of this project: every loss and weight must be equal, bit for bit.

    python benchmarks/equal_runs.py REVISION [--only NAME …] [--threads 1 2]

REVISION is any commit of this repository; the other version is the working tree. Both versions train each recipe from
its start, and the working tree also resumes a run that REVISION stopped halfway. All models are tiny and made here.
Exits with 1 at the first difference.

Each version trains all recipes in one process for each number of threads, through the public API only, so that it does
not matter how a version arranges its modules.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TEXT = "the a cat dog sat ran on under mat tree and then it was very happy sad red blue one two three"
WORDS = TEXT.split(" ")
STEPS, HALFWAY = 6, 3

LORA = {"rank": 4, "alpha": 8}
SMALL: dict[str, Any] = {"steps": STEPS, "examples": 4, "tokens": 160, "lr": 1e-3}
REWARDS = [{"kind": "length", "free": 0, "most": 9}, {"kind": "pattern", "pattern": "[a-m]"}]

# Every head, type of reference, adapter and optimizer at least once.
RECIPES: dict[str, dict[str, Any]] = {
    "sft-full": {
        "model": {"base": "llama", "dtype": "float32"},
        "objective": {"kind": "sft"},
        "data": {"train": "answers.jsonl", "validation": 0.2},
        "evaluate": {"every": 2},
    },
    "sft-lora": {
        "model": {"base": "llama", "dtype": "bfloat16"},
        "adapter": {**LORA, "dropout": 0.1},
        "objective": {"kind": "sft", "weighting": "example"},
        "data": {"train": "answers.jsonl", "validation": 0.2},
        "evaluate": {"every": 2, "stop_after": 2},
    },
    "sft-nf4": {
        "model": {"base": "llama", "dtype": "float32", "quantize": "nf4"},
        "adapter": LORA,
        "objective": {"kind": "sft"},
        "data": {"train": "answers.jsonl"},
    },
    "causal-muon": {
        "model": {"base": "gpt2", "dtype": "float32"},
        "objective": {"kind": "causal"},
        "data": {"train": "texts.jsonl", "max_length": 32, "too_long": "split"},
        "optim": {**SMALL, "optimizer": "muon", "ema": 0.9},
    },
    "causal-guarded": {
        "model": {"base": "llama", "dtype": "bfloat16"},
        "objective": {"kind": "causal"},
        "data": {"train": "texts.jsonl", "max_length": 32, "too_long": "split", "validation": 0.2},
        "guard": {"replay": "texts.jsonl", "share": 0.3, "anchor": 0.5},
        "evaluate": {"every": 3},
    },
    "dpo-full": {
        "model": {"base": "llama", "dtype": "float32"},
        "objective": {"kind": "dpo"},
        "data": {"train": "pairs.jsonl", "validation": 0.2},
        "evaluate": {"every": 3},
    },
    "dpo-lora": {
        "model": {"base": "gpt2", "dtype": "bfloat16"},
        "adapter": LORA,
        "objective": {"kind": "dpo", "form": "ipo", "normalised": True},
        "data": {"train": "pairs.jsonl"},
    },
    "kto": {
        "model": {"base": "llama", "dtype": "float32"},
        "adapter": LORA,
        "objective": {"kind": "kto"},
        "data": {"train": "pairs.jsonl"},
    },
    "reward": {
        "model": {"base": "llama", "dtype": "float32"},
        "objective": {"kind": "reward"},
        "data": {"train": "pairs.jsonl"},
    },
    "grpo": {
        "model": {"base": "llama", "dtype": "float32"},
        "adapter": LORA,
        "objective": {"kind": "grpo", "rewards": REWARDS, "group": 3, "tokens": 8, "passes": 2, "beta": 0.1},
        "data": {"train": "prompts.jsonl", "validation": 0.2},
        "evaluate": {"every": 3},
    },
    "masked": {
        "model": {"base": "bert", "dtype": "float32"},
        "objective": {"kind": "masked"},
        "data": {"train": "texts.jsonl", "max_length": 32, "too_long": "split"},
    },
    "tag": {
        "model": {"base": "bert", "dtype": "float32"},
        "objective": {"kind": "tag"},
        "data": {"train": "spans.jsonl", "validation": 0.2},
        "evaluate": {"every": 3},
    },
    "classify": {
        "model": {"base": "bert", "dtype": "float32"},
        "adapter": LORA,
        "objective": {"kind": "classify", "weights": "balanced"},
        "data": {"train": "labels.jsonl", "validation": 0.2},
        "evaluate": {"every": 3},
    },
    "regress": {
        "model": {"base": "llama", "dtype": "float32"},
        "objective": {"kind": "regress"},
        "data": {"train": "numbers.jsonl"},
    },
    "contrastive": {
        "model": {"base": "bert", "dtype": "float32"},
        "objective": {"kind": "contrastive"},
        "data": {"train": "matches.jsonl", "validation": 0.2},
        "evaluate": {"every": 3},
    },
    "span": {
        "model": {"base": "t5", "dtype": "float32"},
        "objective": {"kind": "span"},
        "data": {"train": "texts.jsonl", "max_length": 32, "too_long": "split"},
    },
}

# What a process runs: each job is a recipe, a run folder, and the step to stop at (0: none, -1: resume to the end).
TRAINING = """
import json, sys
from pathlib import Path
import bottega

def train(name, out, last):
    events = bottega.train(bottega.Recipe.load(f"{name}.yaml"), out=out)
    for event in events:
        if last and event.type == "saved" and event.step >= last:
            events.close()
            break

jobs = json.loads(sys.argv[1])
for name, out, last in jobs:
    if last < 0:
        for event in bottega.resume(out):
            pass
    else:
        train(name, out, last)
    print(f"  {name}", file=sys.stderr, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision")
    parser.add_argument("--only", nargs="+", default=list(RECIPES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = checkout(options.revision, folder / "before")
        make_inputs(folder)
        for threads in options.threads:
            for recipe in options.only:
                write_recipe(folder, recipe, threads)
            old, new = f"old{threads}", f"new{threads}"
            train(before, folder, [(recipe, f"{old}/{recipe}", 0) for recipe in options.only])
            train(ROOT / "src", folder, [(recipe, f"{new}/{recipe}", 0) for recipe in options.only])
            train(before, folder, [(recipe, f"{old}-cut/{recipe}", HALFWAY) for recipe in options.only])
            train(ROOT / "src", folder, [(recipe, f"{old}-cut/{recipe}", -1) for recipe in options.only])
            for recipe in options.only:
                expected = result(folder / old / recipe)
                compare(expected, result(folder / new / recipe), f"{recipe}, {threads} threads")
                compare(expected, result(folder / f"{old}-cut" / recipe), f"{recipe}, {threads} threads, resumed")
                numbers, weights = expected
                print(f"{recipe}, {threads} threads: {len(numbers)} numbers, {len(weights)} weight files: equal")


def checkout(revision: str, folder: Path) -> Path:
    """The package's sources at `revision`, with its benchmarks beside them, in `folder`; returns the sources."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", revision, "src", "benchmarks"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder / "src"


def train(source: Path, folder: Path, jobs: list[tuple[str, str, int]]) -> None:
    """Run jobs one after the other in one process, with the package at `source`."""
    environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", TRAINING, json.dumps(jobs)], cwd=folder, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{source}: exit {done.returncode}")


def result(run: Path) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
    """(every loss and gradient norm in order, checksums of the weight files) of a finished run."""
    numbers = []
    for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["type"] in ("stepped", "validated"):
            numbers.append((event["type"], event["step"], event["loss"], event.get("grad_norm")))
    weights = {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*.safetensors"))
    }
    return numbers, weights


def compare(expected: Any, actual: Any, name: str) -> None:
    """Exit with 1 and the first difference if two results are not equal."""
    if expected != actual:
        for left, right in zip(expected[0], actual[0], strict=False):
            if left != right:
                print(f"first difference: {left} and {right}", file=sys.stderr)
                break
        files = [file for file in {*expected[1], *actual[1]} if expected[1].get(file) != actual[1].get(file)]
        sys.exit(f"{name}: not equal; weights that differ: {sorted(files)}")


def write_recipe(folder: Path, name: str, threads: int) -> None:
    recipe = {"optim": SMALL, "save": {"every": HALFWAY, "keep": 2}, "devices": {"threads": threads}, **RECIPES[name]}
    (folder / f"{name}.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML


def make_inputs(folder: Path) -> None:
    """Write tiny models with random weights, and a file of rows for each type of record."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    decoder = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    dropout = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 2}
    models = {
        "llama": (transformers.LlamaConfig(num_key_value_heads=2, **decoder), transformers.LlamaForCausalLM),
        "gpt2": (transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, **dropout), transformers.GPT2LMHeadModel),
        "bert": (transformers.BertConfig(**decoder), transformers.BertForMaskedLM),
        "t5": (transformers.T5Config(**sizes), transformers.T5ForConditionalGeneration),
    }
    for name, (config, model_class) in models.items():
        torch.manual_seed(0)
        config.update({"vocab_size": 320, "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1})
        model_class(config).save_pretrained(folder / name)
        make_tokenizer(folder / name)
    rng = random.Random(0)

    def words(most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, most)))

    def spans() -> dict[str, Any]:
        text = words(9)
        end = text.index(" ")
        return {"text": text, "spans": [{"start": 0, "end": end, "label": rng.choice("AB")}]}

    make_row = {
        "answers": lambda: {"prompt": f"{words(4)} ", "completion": words(8)},
        "texts": lambda: {"text": words(20)},
        "pairs": lambda: {"prompt": f"{words(5)} ", "chosen": words(6), "rejected": words(6)},
        "prompts": lambda: {"prompt": f"{words(5)} ", "answer": words(3)},
        "spans": spans,
        "labels": lambda: {"text": words(8), "label": rng.choice("abc")},
        "numbers": lambda: {"text": words(8), "label": round(rng.random() * 9, 2)},
        "matches": lambda: {"anchor": words(8), "positive": words(8)},
    }
    for name, row in make_row.items():
        rows = "".join(json.dumps(row()) + "\n" for _ in range(40))
        (folder / f"{name}.jsonl").write_text(rows, encoding="utf-8")


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer of 320 tokens, including sentinels for spans."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<unk>", "<mask>", *(f"<extra_id_{number}>" for number in range(9))]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = dict(zip(("bos_token", "eos_token", "pad_token", "unk_token", "mask_token"), special, strict=False))
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(str(folder))


if __name__ == "__main__":
    main()
