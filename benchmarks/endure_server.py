"""Kill a server at random moments in uploads, jobs and chats, start it again, and compare what it kept.

    python benchmarks/endure_server.py [--kills 100] [--seed 0] [--out FILE]

After every kill: no process of a job is left, every file that was acknowledged is whole, and no acknowledged job is
gone. At the end every job must have succeeded, with the weights that the same job gets on a server that nobody kills.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from machine import write_result
from workloads import make_model, make_tokenizer

HERE = Path(__file__).parent
ROWS = "".join(
    json.dumps(
        {"messages": [{"role": "user", "content": f"w{5 + n} w9"}, {"role": "assistant", "content": f"w{n + 7}"}]}
    )
    + "\n"
    for n in range(12)
).encode()
JOB = {"model": "base", "seed": 3, "hyperparameters": {"n_epochs": 12, "batch_size": 2}}
CHAT = {"model": "base", "messages": [{"role": "user", "content": "w5 w6"}], "max_tokens": 200, "stream": True}
HEADERS = {"authorization": "Bearer any"}


@dataclass
class Ledger:
    """What the server has acknowledged."""

    files: dict[str, str] = field(default_factory=dict)  # id → checksum
    jobs: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)


class Server:
    """A server in a folder."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base, self.folder = base, folder
        self.process: subprocess.Popen[bytes] | None = None
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{taken.getsockname()[1]}"

    def start(self) -> None:
        command = [sys.executable, "-m", "bottega", "serve", f"base={self.base}", "--folder", str(self.folder)]
        command += ["--port", self.url.rpartition(":")[2], "--dtype", "float32"]
        log = (self.folder.parent / "server.log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        ends = time.monotonic() + 120
        while time.monotonic() < ends:
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(f"{self.url}/healthz").status_code == 200:
                    return
            time.sleep(0.05)
        raise SystemExit("the server does not start; see " + str(self.folder.parent / "server.log"))

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def workers(self) -> list[int]:
        """The processes of jobs in this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes().decode(errors="replace")
                    if "bottega.server.jobs.worker" in line and str(self.folder) in line:
                        found.append(int(entry.name))
        return found


def work(server: Server, ledger: Ledger, stop: threading.Event, draw: random.Random, *, jobs: int) -> None:
    """Upload files whole and in parts, submit a job, chat, until the server is gone."""
    with httpx2.Client(base_url=server.url, headers=HEADERS, timeout=30) as http:
        while not stop.is_set():
            try:
                kind = draw.choice(["file", "upload", "chat", "job"])
                if kind == "file":
                    data = draw.randbytes(draw.choice([10, 1 << 16, 1 << 22]))
                    answer = http.post("/v1/files", files={"file": ("a.txt", data)}, data={"purpose": "user_data"})
                    ledger.files[answer.json()["id"]] = hashlib.sha256(data).hexdigest()
                elif kind == "upload":
                    _upload(http, ledger, draw)
                elif kind == "job" and len(ledger.jobs) < jobs:
                    _submit(http, ledger)
                else:
                    with http.stream("POST", "/v1/chat/completions", json=CHAT) as stream:
                        for _ in stream.iter_lines():
                            ledger.counts["lines of chats"] += 1
                ledger.counts[kind] += 1
            except (httpx2.HTTPError, KeyError, ValueError):
                if not stop.is_set():
                    time.sleep(0.05)


def _upload(http: httpx2.Client, ledger: Ledger, draw: random.Random) -> None:
    parts = [draw.randbytes(1 << 18) for _ in range(3)]
    body = {"bytes": sum(map(len, parts)), "filename": "b.bin", "mime_type": "x/y", "purpose": "user_data"}
    upload = http.post("/v1/uploads", json=body).json()["id"]
    ids = [http.post(f"/v1/uploads/{upload}/parts", files={"data": ("p", part)}).json()["id"] for part in parts]
    done = http.post(f"/v1/uploads/{upload}/complete", json={"part_ids": ids}).json()
    ledger.files[done["file"]["id"]] = hashlib.sha256(b"".join(parts)).hexdigest()


def _submit(http: httpx2.Client, ledger: Ledger) -> None:
    file = http.post("/v1/files", files={"file": ("rows.jsonl", ROWS)}, data={"purpose": "fine-tune"}).json()["id"]
    ledger.files[file] = hashlib.sha256(ROWS).hexdigest()
    job = http.post("/v1/fine_tuning/jobs", json={**JOB, "training_file": file}).json()["id"]
    ledger.jobs.add(job)


def check(server: Server, ledger: Ledger, *, contents: bool) -> None:
    """Every file that was acknowledged is there and whole, and every job."""
    with httpx2.Client(base_url=server.url, headers=HEADERS, timeout=60) as http:
        listed = {file["id"] for file in http.get("/v1/files").json()["data"]}
        assert set(ledger.files) <= listed, f"files are lost: {set(ledger.files) - listed}"
        for file in ledger.files if contents else random.sample(sorted(ledger.files), min(5, len(ledger.files))):
            data = http.get(f"/v1/files/{file}/content").content
            assert hashlib.sha256(data).hexdigest() == ledger.files[file], f"{file} is damaged"
        for job in ledger.jobs:
            answer = http.get(f"/v1/fine_tuning/jobs/{job}")
            assert answer.status_code == 200, f"{job} is lost"
            assert answer.json()["status"] not in ("failed", "cancelled"), answer.json()


def all_jobs(server: Server) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = []
    with httpx2.Client(base_url=server.url, headers=HEADERS, timeout=60) as http:
        while True:
            after = {"after": jobs[-1]["id"]} if jobs else {}
            page = http.get("/v1/fine_tuning/jobs", params={"limit": 100, **after}).json()
            jobs += page["data"]
            if not page["has_more"]:
                return jobs


def wait_for_jobs(server: Server) -> list[dict[str, Any]]:
    ends = time.monotonic() + 1800
    while time.monotonic() < ends:
        jobs = all_jobs(server)
        if all(job["status"] in ("succeeded", "failed") for job in jobs):
            return jobs
        time.sleep(0.5)
    raise SystemExit(f"jobs do not end: {[job['status'] for job in jobs]}")


def weights(server: Server, job: str) -> str:
    path = server.folder / "jobs" / job / "run" / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=25, help="jobs that are submitted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    draw, ledger = random.Random(options.seed), Ledger()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = folder / "base"
        base.mkdir()
        make_model(base, "tiny")
        make_tokenizer(base)
        # The same job, undisturbed.
        calm, calm_ledger = Server(base, folder / "calm"), Ledger()
        calm.start()
        with httpx2.Client(base_url=calm.url, headers=HEADERS, timeout=60) as http:
            _submit(http, calm_ledger)
        (expected,) = (weights(calm, job["id"]) for job in wait_for_jobs(calm))
        calm.kill()
        server, started = Server(base, folder / "state"), time.monotonic()
        for number in range(options.kills):
            server.start()
            check(server, ledger, contents=False)
            stop = threading.Event()
            jobs = round(options.jobs * (number + 1) / options.kills)
            arguments = [(server, ledger, stop, random.Random(draw.random())) for _ in range(3)]
            threads = [threading.Thread(target=work, args=one, kwargs={"jobs": jobs}) for one in arguments]
            for thread in threads:
                thread.start()
            time.sleep(draw.uniform(0.1, 7))
            stop.set()
            server.kill()
            for thread in threads:
                thread.join()
            time.sleep(0.5)
            assert not server.workers(), "a process of a job has outlived its server"
            print(
                f"kill {number + 1}: {len(ledger.files)} files, {len(ledger.jobs)} jobs, {dict(ledger.counts)}",
                flush=True,
            )
        server.start()
        jobs_at_end = wait_for_jobs(server)
        check(server, ledger, contents=True)
        assert all(job["status"] == "succeeded" for job in jobs_at_end), jobs_at_end
        assert {weights(server, job["id"]) for job in jobs_at_end} == {expected}, "a job has other weights"
        server.kill()
    text = (
        f"{options.kills} kills with SIGKILL at random moments, in {(time.monotonic() - started) / 60:.0f} minutes:"
        f" {len(ledger.files)} files ({ledger.counts['upload']} of them in parts), {len(jobs_at_end)} jobs,"
        f" {ledger.counts['lines of chats']} lines of chats. No file was lost or damaged, no job was lost, no process"
        " of a job outlived its server, and every job has the weights of the same job on a server left alone.\n"
    )
    write_result("A server that is killed", text, options.out)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
