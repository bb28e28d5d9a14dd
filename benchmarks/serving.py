"""Speed of continuous batching beside transformers' generate, and a server under load.

    python benchmarks/serving.py speed [--dtype bfloat16 float32] [--rounds 3] [--out FILE]
    python benchmarks/serving.py load [--streams 64] [--minutes 5] [--out FILE]

`speed`, with the shapes of a model of 135 million parameters and no end tokens: 16 chats of ragged lengths at once,
with three turns each; 32 requests behind one system prompt of 400 tokens; the first token of one request. transformers
computes the same prompts as one batch padded on the left, up to the longest answer; the next turn of the chats is
another batch. Both take turns, and medians are shown. `load` keeps streams of a small model open, each compared with
the answer that the same request gets alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import training_dtype, write_result
from workloads import VOCABULARY, make_model, make_tokenizer

import bottega
from bottega.hardware.process import configure
from bottega.inference.compute_thread import ComputeThread
from bottega.inference.continuous_decoder import ContinuousDecoder
from bottega.inference.generator import Writer
from bottega.inference.language_model import load_language_model
from bottega.inference.scheduler import Done, GenerationRequest, Scheduler, ScoredPiece, Update
from bottega.sampling import Sampling

# A prompt, and how many tokens to answer with.
Request = tuple[list[int], int]


def words(draw: np.random.Generator, count: int) -> list[int]:
    return list(map(int, draw.integers(5, VOCABULARY, count)))


def ragged_chats(draw: np.random.Generator) -> list[list[Request]]:
    """16 chats, each of three (question, tokens of the answer)."""
    questions, answers = (draw.lognormal(mean, 0.8, (16, 3)).clip(8, most) for mean, most in ((3.7, 300), (4.0, 250)))
    return [
        [(words(draw, int(asked)), int(told)) for asked, told in zip(*turns, strict=True)]
        for turns in zip(questions, answers, strict=True)
    ]


def behind_one_prompt(draw: np.random.Generator) -> list[list[Request]]:
    """32 requests behind one system prompt of 400 tokens."""
    system = words(draw, 400)
    return [[([*system, *words(draw, int(draw.integers(8, 48)))], int(draw.integers(16, 64)))] for _ in range(32)]


class Ours:
    """Requests through a scheduler; a chat asks its next question when it is answered."""

    def __init__(self, writer: Writer, thread: ComputeThread) -> None:
        self.writer, self.thread = writer, thread

    def run(self, chats: Sequence[Sequence[Request]]) -> float:
        scheduler = Scheduler(ContinuousDecoder(self.writer.network), self.thread)
        left, ended = len(chats), threading.Event()
        lock = threading.Lock()

        def ask(history: list[int], turns: Sequence[Request]) -> None:
            nonlocal left
            if not turns:
                with lock:
                    left -= 1
                if not left:
                    ended.set()
                return
            (question, tokens), *others = turns
            prompt = [*history, *question]

            def deliver(updates: list[Update]) -> None:
                prompt.extend(update.piece.token for update in updates if isinstance(update, ScoredPiece))
                if isinstance(updates[-1], Done):
                    ask(prompt, others)

            scheduler.submit(GenerationRequest(self.writer, tuple(prompt), Sampling(tokens=tokens)), deliver)

        start = time.perf_counter()
        for turns in chats:
            ask([], turns)
        ended.wait()
        seconds = time.perf_counter() - start
        scheduler.close()
        return seconds


class Theirs:
    """transformers' generate over a padded batch for each turn."""

    def __init__(self, network: Any, thread: ComputeThread) -> None:
        self.network, self.thread = network, thread

    def run(self, chats: Sequence[Sequence[Request]]) -> float:
        return self.thread.call(lambda: self._run(chats))

    def _run(self, chats: Sequence[Sequence[Request]]) -> float:
        histories: list[list[int]] = [[] for _ in chats]
        start = time.perf_counter()
        for turn in range(len(chats[0])):
            prompts = [[*history, *chat[turn][0]] for history, chat in zip(histories, chats, strict=True)]
            tokens = [chat[turn][1] for chat in chats]
            written = generate_padded(self.network, prompts, max(tokens))
            histories = [[*prompt, *row[:count]] for prompt, row, count in zip(prompts, written, tokens, strict=True)]
        return time.perf_counter() - start


def generate_padded(network: Any, prompts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """What transformers' generate writes greedily after prompts, as one batch padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    written: list[list[int]] = network.generate(ids, attention_mask=mask, **settings)[:, longest:].tolist()
    return written


def speed(options: argparse.Namespace) -> str:
    lines = ["| dtype | what | bottega, s | transformers, s | ratio |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder, "135m")
        make_tokenizer(folder)
        for dtype in options.dtype:
            # One thread computes for both, so that neither has idle threads of the other beside it.
            thread = ComputeThread()
            lines += thread_lines(folder, dtype, thread, options.rounds)
            thread.close()
    return "\n".join(lines)


def thread_lines(folder: Path, dtype: str, thread: ComputeThread, rounds: int) -> list[str]:
    import transformers

    writer = thread.call(lambda: load_language_model(folder, dtype=dtype).writer)
    writer.ends = frozenset()
    network = thread.call(
        lambda: transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    )
    network.generation_config.eos_token_id = None
    ours, theirs, lines = Ours(writer, thread), Theirs(network, thread), []
    loads = {"16 chats of three turns": ragged_chats, "32 requests behind 400 tokens": behind_one_prompt}
    for name, make in loads.items():
        chats = make(np.random.default_rng(0))
        times = [(ours.run(chats), theirs.run(chats)) for _ in range(rounds)]
        lines.append(row(dtype, name, *(median(one) for one in zip(*times, strict=True))))
        print(lines[-1], flush=True)
    prompt = words(np.random.default_rng(1), 300)

    def bare() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            network(torch.tensor([prompt]), logits_to_keep=1).logits.argmax(-1).item()
        return time.perf_counter() - start

    firsts = [(ours.run([[(prompt, 1)]]), thread.call(bare)) for _ in range(3 * rounds)]
    lines.append(
        row(
            dtype,
            "first token after 300 (transformers: a bare forward)",
            *(median(x) for x in zip(*firsts, strict=True)),
        )
    )
    print(lines[-1], flush=True)
    return lines


def row(dtype: str, name: str, ours: float, theirs: float) -> str:
    return f"| {dtype} | {name} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} |"


def load(options: argparse.Namespace) -> str:
    """Streams of a small model for some minutes: every answer is the one that its request gets alone."""
    deployment = bottega.Deployment(bottega.DeploymentSettings(dtype="float32"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder, "tiny")
        make_tokenizer(folder)
        deployment.add("tiny", folder)
        model = deployment.language("tiny")
        draw = np.random.default_rng(0)
        requests = [(words(draw, int(draw.integers(5, 200))), seed) for seed in range(200)]
        alone = {seed: answer(model, prompt, seed) for prompt, seed in requests}
        counts, wrong, memory = [0] * options.streams, list[int](), list[int]()
        ends = time.monotonic() + 60 * options.minutes

        def stream(number: int) -> None:
            mine = np.random.default_rng(number)
            while time.monotonic() < ends:
                prompt, seed = requests[int(mine.integers(len(requests)))]
                if answer(model, prompt, seed) != alone[seed]:
                    wrong.append(seed)
                counts[number] += 1

        threads = [threading.Thread(target=stream, args=(number,)) for number in range(options.streams)]
        for thread in threads:
            thread.start()
        while time.monotonic() < ends:
            memory.append(resident())
            time.sleep(5)
        for thread in threads:
            thread.join()
        stats = model.scheduler.stats
        deployment.close()
    tenth = len(memory) // 10 or 1
    return (
        f"{options.streams} streams for {options.minutes} minutes: {sum(counts)} answers,"
        f" {stats.generated_tokens} tokens, {len(wrong)} answers other than alone, {stats.failed} failed,"
        f" {min(counts)} to {max(counts)} answers a stream. Memory"
        f" {median(memory[tenth : 2 * tenth + 1]) / 2**20:.0f} MiB after a tenth of the time,"
        f" {median(memory[-tenth:]) / 2**20:.0f} MiB at the end.\n"
    )


def answer(model: bottega.ServedLanguageModel, prompt: list[int], seed: int) -> list[int]:
    told, tokens = threading.Event(), list[int]()

    def deliver(_: int, updates: list[Update]) -> None:
        tokens.extend(update.piece.token for update in updates if isinstance(update, ScoredPiece))
        if not isinstance(updates[-1], ScoredPiece):
            told.set()

    settings = Sampling(tokens=20 + seed % 60, temperature=float(seed % 2), seed=seed)
    model.submit([prompt], settings, deliver)
    told.wait()
    return tokens


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


COMMANDS: dict[str, tuple[str, Callable[[argparse.Namespace], str]]] = {
    "speed": ("Speed of continuous batching", speed),
    "load": ("A server under load", load),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--dtype", nargs="+", default=sorted({training_dtype(), "float32"}))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    title, run = COMMANDS[options.command]
    write_result(title, run(options), options.out)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    configure()
    main()
