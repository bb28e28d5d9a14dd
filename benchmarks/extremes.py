"""What clients do to a server, by intent or not: a large upload, slow readers, cut connections, bodies that unpack.

    python benchmarks/extremes.py [--gigabytes 2] [--out FILE]

Each must end as `docs/serving.md` promises, while a chat on the side is answered all the time and memory stays flat.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import httpx2
from endure_server import HEADERS, Server
from machine import write_result
from workloads import make_model, make_tokenizer

PART = 64 << 20
BLOCK = 1 << 20

LONG = {
    "model": "base",
    "messages": [{"role": "user", "content": "w5 w6"}],
    "max_tokens": 400,
    "stream": True,
    "logit_bias": {str(token): -100 for token in range(3)},
}


def resident(server: Server) -> int:
    assert server.process is not None
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def upload(server: Server, http: httpx2.Client, gigabytes: float) -> str:
    """A large file in parts, read back."""
    parts = int(gigabytes * (1 << 30)) // PART
    body = {"bytes": parts * PART, "filename": "large.bin", "mime_type": "x/y", "purpose": "user_data"}
    upload_id, whole, ids, most = http.post("/v1/uploads", json=body).json()["id"], hashlib.sha256(), [], 0
    before, began = resident(server), time.monotonic()
    for number in range(parts):
        data = os.urandom(BLOCK) * (PART // BLOCK - 1) + number.to_bytes(BLOCK, "big")
        whole.update(data)
        ids.append(http.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("p", data)}).json()["id"])
        most = max(most, resident(server))
    done = http.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": ids}).json()
    assert done["status"] == "completed", done
    seconds, read, count = time.monotonic() - began, hashlib.sha256(), 0
    with http.stream("GET", f"/v1/files/{done['file']['id']}/content") as response:
        for part in response.iter_bytes():
            read.update(part)
            count += len(part)
            most = max(most, resident(server)) if count % (64 << 20) < len(part) else most
    assert (read.digest(), count) == (whole.digest(), parts * PART), "the file differs"
    assert http.delete(f"/v1/files/{done['file']['id']}").json()["deleted"]
    grown = (most - before) >> 20
    assert grown < 400, f"memory grew by {grown} MiB"
    size = parts * PART / 2**30
    return f"{size:.1f} GiB in {parts} parts in {seconds:.0f} s, read back equal; memory grew {grown} MiB"


def slow_readers(server: Server, http: httpx2.Client) -> str:
    """Clients that ask for long streams and read nothing."""
    body = json.dumps(LONG).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {server.url[7:]}\r\nauthorization: Bearer any\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    opened = []
    host, port = server.url[7:].split(":")
    for _ in range(16):
        one = socket.create_connection((host, int(port)))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        one.sendall(head.encode() + body)
        opened.append(one)
    before = resident(server)
    times = [chat(http) for _ in range(5)]
    for one in opened:
        one.close()
    until(lambda: running(http) == 0)
    grown = (resident(server) - before) >> 20
    assert grown < 200, f"memory grew by {grown} MiB"
    return f"16 that read nothing: others are answered in {median(times):.2f} s (median), nothing runs on when they go"


def cut(server: Server, http: httpx2.Client) -> str:
    """Connections that end in the middle of a request, or of a stream."""
    host, port = server.url[7:].split(":")
    for path, kind in (("/v1/files", "multipart/form-data; boundary=b"), ("/v1/chat/completions", "application/json")):
        for _ in range(20):
            with socket.create_connection((host, int(port))) as one:
                head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer any\r\ncontent-type: {kind}\r\n"
                one.sendall(head.encode() + b"content-length: 1000000\r\n\r\n--b\r\ncontent-disposition: form-data")
    for _ in range(20):
        with http.stream("POST", "/v1/chat/completions", json=LONG) as response:
            next(response.iter_lines())
    until(lambda: running(http) == 0)
    assert not http.get("/v1/files").json()["data"], "half a file is there"
    return "40 requests and 20 streams cut in the middle: no file is there, nothing runs on"


def unpacking(server: Server, http: httpx2.Client) -> str:
    """Bodies that are small, and large once they are unpacked."""
    body, before = gzip.compress(bytes(1 << 28)), resident(server)
    answers = [
        http.post(path, content=body, headers={"content-encoding": encoding, "content-type": "application/json"})
        for path in ("/v1/chat/completions", "/v1/fine_tuning/jobs")
        for encoding in ("gzip", "deflate", "br")
    ]
    assert {answer.status_code for answer in answers} == {415}
    # As the rows of a job: they are taken for what they are, and not unpacked.
    refused = http.post("/v1/files", files={"file": ("rows.jsonl.gz", body)}, data={"purpose": "fine-tune"})
    assert refused.status_code == 400, refused.text
    file = http.post("/v1/files", files={"file": ("rows.jsonl", body)}, data={"purpose": "fine-tune"}).json()["id"]
    job = http.post("/v1/fine_tuning/jobs", json={"model": "base", "training_file": file}).json()["id"]
    until(lambda: http.get(f"/v1/fine_tuning/jobs/{job}").json()["status"] == "failed", 60)
    assert resident(server) - before < 200 << 20
    return f"256 MiB in {len(body) >> 10} KiB: refused with 415 as a body, and as the rows of a job not read as rows"


def strangers(server: Server, http: httpx2.Client) -> str:
    """Other host names, pages of other origins, requests without a key."""
    url = f"{server.url}/v1/models"
    cases = (({"host": "elsewhere.example"}, 403), ({"origin": "https://elsewhere.example"}, 403))
    for headers, status in cases:
        answer = httpx2.get(url, headers={**HEADERS, **headers})
        assert (answer.status_code, "error" in answer.json()) == (status, True), answer.text
        assert "access-control-allow-origin" not in answer.headers
    assert httpx2.get(url).status_code == 401
    return "another host name, a foreign origin: 403, without permission for the origin; no key: 401"


def chat(http: httpx2.Client) -> float:
    began = time.monotonic()
    answer = http.post("/v1/chat/completions", json={**LONG, "stream": False, "max_tokens": 5})
    assert answer.status_code == 200, answer.text
    return time.monotonic() - began


def running(http: httpx2.Client) -> int:
    lines = http.get("/metrics").text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("bottega_running"))


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary) / "base"
        base.mkdir()
        make_model(base, "tiny")
        make_tokenizer(base)
        server = Server(base, Path(temporary) / "state")
        server.start()
        times, stop = list[float](), threading.Event()

        def beside() -> None:
            with httpx2.Client(base_url=server.url, headers=HEADERS, timeout=60) as http:
                while not stop.is_set():
                    times.append(chat(http))
                    time.sleep(0.2)

        thread = threading.Thread(target=beside)
        try:
            with httpx2.Client(base_url=server.url, headers=HEADERS, timeout=600) as http:
                lines = [f"- Strangers: {strangers(server, http)}.", f"- Slow readers: {slow_readers(server, http)}."]
                lines += [f"- Cut connections: {cut(server, http)}."]
                thread.start()
                lines += [f"- A large upload: {upload(server, http, options.gigabytes)}."]
                lines += [f"- Bodies that unpack: {unpacking(server, http)}."]
        finally:
            stop.set()
            if thread.is_alive():
                thread.join()
            server.kill()
    lines.append(f"- A chat beside the last two was answered {len(times)} times, in {max(times):.2f} s at most.")
    write_result("Extremes", "\n".join(lines), options.out)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
