"""A 5-shot multiple-choice task in lm-eval: bottega's model class compared with lm-eval's own `hf` class.

    make exam            # or: python benchmarks/exam.py [--questions 200] [--data FOLDER] [--out FILE]

Runs in the peers' environment, which has lm-eval. Both classes answer the same requests with the same weights of 135 M
shapes: first in float32, where the log-likelihoods must be equal, then timed in bfloat16, alternating. The few-shot
examples are the same for every question.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from machine import describe_machine  # noqa: E402
from workloads import make_model  # noqa: E402

from bottega.data.train_tokenizer import train_tokenizer  # noqa: E402

# The least speed-up, and the largest relative difference of log-likelihoods that counts as equal.
TARGET, TOLERANCE = 8.0, 1e-4

# Vocabulary of the tokenizer trained on the questions: about as many tokens per word as a large tokenizer gives.
VOCABULARY = 8000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--equal", type=int, default=20, help="questions whose log-likelihoods are compared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="batch size of lm-eval's hf class")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "arc_easy" / "arc_easy.jsonl")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", "135m")
        words = folder / "words.jsonl"
        rows = map(json.loads, options.data.read_text(encoding="utf-8").splitlines())
        words.write_text(
            "".join(json.dumps({"text": " ".join([row["query"], *row["choices"]])}) + "\n" for row in rows)
        )
        train_tokenizer([words], VOCABULARY, folder / "tokenizer")
        shutil.copytree(folder / "tokenizer", folder / "model", dirs_exist_ok=True)
        task = write_task(options.data, folder)
        theirs, _ = run_task("hf", folder, task, "float32", options.equal, options.batch)
        ours, _ = run_task("bottega", folder, task, "float32", options.equal, options.batch)
        difference = max(abs(our - their) / max(1.0, abs(their)) for our, their in zip(ours, theirs, strict=True))
        seconds: dict[str, list[float]] = {"bottega": [], "hf": []}
        for _ in range(options.rounds):
            for kind in seconds:
                seconds[kind].append(run_task(kind, folder, task, "bfloat16", options.questions, options.batch)[1])
                print(kind, f"{seconds[kind][-1]:.1f} s", file=sys.stderr, flush=True)
    medians = {kind: statistics.median(times) for kind, times in seconds.items()}
    speed_up = medians["hf"] / medians["bottega"]
    machine = describe_machine("lm_eval", "torch", "transformers")
    lines = [
        "# A 5-shot task, compared with lm-eval's hf class",
        "",
        f"{date.today()}, {machine}. arc_easy, 135 M shapes; medians of {options.rounds} alternating rounds over "
        f"{options.questions} questions, bfloat16, {options.batch} requests per batch of hf.",
        "",
        "| | bottega | hf | |",
        "|---|---|---|---|",
        f"| seconds | {medians['bottega']:.1f} | {medians['hf']:.1f} | {speed_up:.1f} × (≥ {TARGET:.0f}): "
        f"{'reached' if speed_up >= TARGET else 'MISSED'} |",
        f"| log-likelihoods in float32, {len(ours)} of them | | | largest difference {difference:.1e}: "
        f"{'equal' if difference <= TOLERANCE else 'DIFFERENT'} |",
    ]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_task(data: Path, folder: Path) -> dict[str, Any]:
    """A task of the harness; the first five rows are its few-shot examples."""
    rows = data.read_text(encoding="utf-8").splitlines()
    for name, part in (("examples", rows[:5]), ("questions", rows[5:])):
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    return {
        "task": "arc_easy_here",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {name: str(folder / f"{name}.jsonl") for name in ("examples", "questions")}},
        "test_split": "questions",
        "fewshot_split": "examples",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": 5,
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}\nAnswer:",
        "doc_to_target": "gold",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }


def run_task(
    kind: str, folder: Path, task: dict[str, Any], dtype: str, questions: int, batch: int
) -> tuple[list[float], float]:
    """(log-likelihoods of all requests, seconds that the model took for them)."""
    import lm_eval

    model = load(kind, folder, dtype, batch)
    loglikelihood, seconds = model.loglikelihood, []

    def timed_loglikelihood(requests: Any, **options: Any) -> Any:
        start = time.perf_counter()
        scores = loglikelihood(requests, **options)
        seconds.append(time.perf_counter() - start)
        return scores

    model.loglikelihood = timed_loglikelihood
    results = lm_eval.simple_evaluate(
        model=model, tasks=[dict(task)], limit=questions, log_samples=True, bootstrap_iters=0
    )
    samples = results["samples"]["arc_easy_here"]
    logp = [float(response[0][0]) for sample in samples for response in sample["resps"]]
    return logp, sum(seconds)


def load(kind: str, folder: Path, dtype: str, batch: int) -> Any:
    if kind == "hf":
        from lm_eval.models.huggingface import HFLM

        return HFLM(str(folder / "model"), dtype=dtype, batch_size=batch, device="cpu")
    import bottega
    from bottega.evaluation.lm_eval import harness_model

    return harness_model(bottega.load(folder / "model", dtype=dtype))


if __name__ == "__main__":
    main()
