"""A multiple-choice exam with five examples before each question: our model in lm-eval beside its `hf` model.

    make exam            # or: python benchmarks/exam.py [--questions 200] [--data FOLDER] [--out FILE]

Runs in the environment of the peers, which has lm-eval. Both answer the same requests of the same harness, with the
same weights of 135 M shapes: first in float32, where the log-likelihoods must be equal, then in bfloat16 on the clock,
alternating. The examples are the same for every question, as in an exam that is given out once.
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

from machine import described  # noqa: E402
from workloads import make_model  # noqa: E402

from bottega.data.train_tokenizer import train_tokenizer  # noqa: E402

PROMISED, EQUAL = 8.0, 1e-4

# Of the tokenizer that is trained on the questions: about as many tokens a word as a large one has.
VOCABULARY = 8000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--equal", type=int, default=20, help="questions whose log-likelihoods are compared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="of lm-eval's hf model")
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
        task = written(options.data, folder)
        theirs, _ = sat("hf", folder, task, "float32", options.equal, options.batch)
        ours, _ = sat("bottega", folder, task, "float32", options.equal, options.batch)
        apart = max(abs(one - other) / max(1.0, abs(other)) for one, other in zip(ours, theirs, strict=True))
        seconds: dict[str, list[float]] = {"bottega": [], "hf": []}
        for _ in range(options.rounds):
            for kind in seconds:
                seconds[kind].append(sat(kind, folder, task, "bfloat16", options.questions, options.batch)[1])
                print(kind, f"{seconds[kind][-1]:.1f} s", file=sys.stderr, flush=True)
    middle = {kind: statistics.median(times) for kind, times in seconds.items()}
    faster = middle["hf"] / middle["bottega"]
    machine = described("lm_eval", "torch", "transformers")
    lines = [
        "# A 5-shot exam beside lm-eval's hf model",
        "",
        f"{date.today()}, {machine}. arc_easy, 135 M shapes; medians of {options.rounds} alternating rounds over "
        f"{options.questions} questions, bfloat16, {options.batch} requests a batch of hf.",
        "",
        "| | ours | hf | |",
        "|---|---|---|---|",
        f"| seconds | {middle['bottega']:.1f} | {middle['hf']:.1f} | {faster:.1f} × (≥ {PROMISED:.0f}): "
        f"{'kept' if faster >= PROMISED else 'MISSED'} |",
        f"| log-likelihoods in float32, {len(ours)} of them | | | apart by {apart:.1e} at most: "
        f"{'equal' if apart <= EQUAL else 'DIFFERENT'} |",
    ]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def written(data: Path, folder: Path) -> dict[str, Any]:
    """The exam as a task of the harness: the first five rows are the examples."""
    rows = data.read_text(encoding="utf-8").splitlines()
    for name, part in (("shown", rows[:5]), ("asked", rows[5:])):
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    return {
        "task": "arc_easy_here",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {name: str(folder / f"{name}.jsonl") for name in ("shown", "asked")}},
        "test_split": "asked",
        "fewshot_split": "shown",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": 5,
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}\nAnswer:",
        "doc_to_target": "gold",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }


def sat(
    kind: str, folder: Path, task: dict[str, Any], dtype: str, questions: int, batch: int
) -> tuple[list[float], float]:
    """The log-likelihoods of all requests, and the seconds the model took to answer them."""
    import lm_eval

    model = made(kind, folder, dtype, batch)
    answer, spent = model.loglikelihood, []

    def timed(requests: Any, **more: Any) -> Any:
        start = time.perf_counter()
        found = answer(requests, **more)
        spent.append(time.perf_counter() - start)
        return found

    model.loglikelihood = timed
    found = lm_eval.simple_evaluate(
        model=model, tasks=[dict(task)], limit=questions, log_samples=True, bootstrap_iters=0
    )
    samples = found["samples"]["arc_easy_here"]
    logp = [float(one[0][0]) for sample in samples for one in sample["resps"]]
    return logp, sum(spent)


def made(kind: str, folder: Path, dtype: str, batch: int) -> Any:
    if kind == "hf":
        from lm_eval.models.huggingface import HFLM

        return HFLM(str(folder / "model"), dtype=dtype, batch_size=batch, device="cpu")
    import bottega
    from bottega.evaluation.lm_eval import harness_model

    return harness_model(bottega.load(folder / "model", dtype=dtype))


if __name__ == "__main__":
    main()
