"""Programs of others against a server: lm-eval's completions client, and the command of openai 2.30.0.

    python benchmarks/clients.py --peer PYTHON --openai PYTHON [--questions 60] [--out FILE]

`--peer` is a Python with lm-eval, `--openai` one with openai 2.30.0, which still has the command. lm-eval asks a
multiple-choice task of the server, and of the folder by its own class for transformers: the scores must be equal. The
command uploads a file, creates a job, lists events, and asks the tuned model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from endure_server import ROWS, Server
from exam import VOCABULARY, write_task
from machine import write_result
from workloads import make_model

from bottega.data.train_tokenizer import train_tokenizer

# Log-likelihoods of an answer in float32, computed in other orders.
TOLERANCE = 1e-3

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "


def evaluate(peer: str, folder: Path, task: dict[str, Any], arguments: list[str], questions: int) -> dict[str, Any]:
    """{scores, and the log-likelihood of every answer} by lm-eval."""
    tasks, out = folder / "tasks", Path(tempfile.mkdtemp(dir=folder))
    tasks.mkdir(exist_ok=True)
    (tasks / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
    command = [peer, "-m", "lm_eval", "--tasks", task["task"], "--include_path", str(tasks), "--limit", str(questions)]
    command += ["--log_samples", "--output_path", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OPENAI_API_KEY": "any"})
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    (results,) = out.rglob("results*.json")
    (samples,) = out.rglob("samples*.jsonl")
    scores = json.loads(results.read_text(encoding="utf-8"))["results"][task["task"]]
    rows = map(json.loads, samples.read_text(encoding="utf-8").splitlines())
    logp = [float(response[0][0]) for row in rows for response in row["resps"]]
    return {"acc": scores["acc,none"], "acc_norm": scores["acc_norm,none"], "logp": logp}


def compare_scores(options: argparse.Namespace, server: Server, folder: Path) -> str:
    task = write_task(options.data, folder)
    tokenizer, model = f"tokenizer={folder / 'base'}", f"pretrained={folder / 'base'}"
    asked = f"model=base,base_url={server.url}/v1/completions,tokenizer_backend=huggingface,{tokenizer}"
    asked += ",num_concurrent=4,max_length=1024"
    served = evaluate(
        options.peer, folder, task, ["--model", "local-completions", "--model_args", asked], options.questions
    )
    direct = evaluate(
        options.peer, folder, task, ["--model", "hf", "--model_args", f"{model},dtype=float32"], options.questions
    )
    difference = max(abs(one - other) for one, other in zip(served["logp"], direct["logp"], strict=True))
    same = all(served[name] == direct[name] for name in ("acc", "acc_norm")) and difference <= TOLERANCE
    verdict = "equal" if same else "DIFFERENT"
    return (
        f"lm-eval, {options.questions} questions, 5 shots, 135 M shapes in float32: served acc {served['acc']:.4f},"
        f" acc_norm {served['acc_norm']:.4f}; from the folder {direct['acc']:.4f}, {direct['acc_norm']:.4f};"
        f" {len(served['logp'])} log-likelihoods differ by at most {difference:.1e}: {verdict}."
    )


def run_command(options: argparse.Namespace, server: Server, folder: Path) -> str:
    """The flow of a job by the command of openai 2.30.0."""
    settings = {**os.environ, "OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "any"}
    openai = str(Path(options.openai).with_name("openai"))

    def call(*arguments: str) -> str:
        done = subprocess.run([openai, "api", *arguments], capture_output=True, text=True, env=settings)
        if done.returncode:
            raise SystemExit(f"openai api {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    rows = folder / "rows.jsonl"
    rows.write_bytes(ROWS)
    file = json.loads(call("files.create", "-f", str(rows), "-p", "fine-tune"))["id"]
    numbers = '{"n_epochs": 2, "batch_size": 4}'
    job = json.loads(call("fine_tuning.jobs.create", "-m", "base", "-F", file, "-s", "mine", "-H", numbers))["id"]
    ends = time.monotonic() + 300
    while (found := json.loads(call("fine_tuning.jobs.retrieve", "-i", job)))["status"] not in ("succeeded", "failed"):
        assert time.monotonic() < ends, found
    assert found["status"] == "succeeded", found
    assert job in call("fine_tuning.jobs.list", "-l", "5")
    events = call("fine_tuning.jobs.list_events", "-i", job, "-l", "50")
    assert "The job has successfully completed" in events
    assert len(re.findall(r"Step \d+/6: training loss", events)) == 6
    tuned = found["fine_tuned_model"]
    assert tuned in call("models.list")
    answers = [
        call("chat.completions.create", "-m", tuned, "-g", "user", "which one?", "-M", "8", "-t", "0", *more)
        for more in ((), ("--stream",))
    ]
    assert answers[0].strip() == answers[1].strip(), answers
    call("completions.create", "-m", tuned, "-p", "which one?", "-M", "4")
    return (
        "The command of openai 2.30.0: files.create, fine_tuning.jobs.create, retrieve, list, list_events, models.list,"
        f" chat.completions.create whole and streamed, completions.create: {tuned} trained and asked."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--openai", default=sys.executable)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument(
        "--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "arc_easy" / "arc_easy.jsonl"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = folder / "base"
        base.mkdir()
        make_model(base, "135m")
        words = folder / "words.jsonl"
        rows = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()]
        texts = [" ".join([row["query"], *row["choices"]]) for row in rows]
        words.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        train_tokenizer([words], VOCABULARY, folder / "tokenizer")
        shutil.copytree(folder / "tokenizer", base, dirs_exist_ok=True)
        (base / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        server = Server(base, folder / "state")
        server.start()
        try:
            lines = [compare_scores(options, server, folder), run_command(options, server, folder)]
        finally:
            server.kill()
    write_result("Other programs against a server", "\n\n".join(lines), options.out)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
