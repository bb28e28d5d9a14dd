"""Runs to evaluate, each trained once, and a server with chat completions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.evaluation import openai_client
from bottega.recipe.schema import Recipe
from making import QUESTIONS, WORDS, make_model, write_jsonl

LABELLED = [{"text": row["instruction"], "label": row["output"]} for row in QUESTIONS]
PAIRS = [
    {"prompt": row["instruction"], "chosen": " on the mat", "rejected": " under the tree ran"} for row in QUESTIONS
]

# The rows of each objective.
ROWS: dict[str, list[dict[str, Any]]] = {
    "sft": QUESTIONS,
    "causal": [{"text": row["instruction"]} for row in QUESTIONS],
    "classify": LABELLED,
    "regress": [{"text": f"{word} {number}", "label": number} for number in range(10) for word in WORDS[:4]],
    "dpo": PAIRS,
    "reward": PAIRS,
    "kto": PAIRS,
    "contrastive": [
        {"anchor": f"{one} {other}", "positive": f"{other} {one}"} for one in WORDS[:6] for other in WORDS[6:14]
    ],
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that returns a run with an objective, on rows that can be learned; each is trained once.

    Its folder is named by the objective, the model, the name and the keys that are set.
    """
    folder = tmp_path_factory.mktemp("trained")
    models = {kind: make_model(folder / kind, kind) for kind in ("llama", "bert")}

    def build(kind: str, *, model: str = "llama", name: str = "", **more: Any) -> Path:
        run = folder / "-".join([kind, model, name, *more])
        if not run.exists():
            document: dict[str, Any] = {
                "model": {"base": str(models[model]), "dtype": "float32"},
                "data": {"train": str(write_jsonl(folder / f"{kind}.jsonl", ROWS[kind])), "validation": 0.4},
                "objective": {"kind": kind},
                "optim": {"steps": 40, "examples": 8, "lr": 3e-3},
                "evaluate": {"every": 40},
            }
            list(bottega.train(Recipe.parse(document | more), run))
        return run

    return build


class Server(ThreadingHTTPServer):
    """Answers that cats are red and dogs blue; as a judge, gives a right answer 10 and a wrong one 3.

    requests  the body of each request, with its path and key
    busy      how many of the next requests are refused
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.busy = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({**body, "key": self.headers.get("Authorization"), "path": self.path})
        if self.server.busy:
            self.server.busy -= 1
            self.send_error(429)
            return
        if body["model"] == "unknown":
            self._respond(404, {"error": {"message": "no such model"}})
            return
        words = body["messages"][-1]["content"]
        text = "Red" if words.startswith("the cat") else "blue"
        if "Given answer" in words:
            right, given = (words.partition(f"{name} answer:\n")[2].partition("\n")[0] for name in ("Right", "Given"))
            text = "no idea" if right == "blue" else "10" if right == given else "mark: 3"
        answer = {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
        self._respond(200, answer)

    def _respond(self, code: int, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server for `http://…/v1#model`; no request waits before another attempt."""
    monkeypatch.setattr(openai_client.time, "sleep", lambda seconds: None)
    running = Server()
    # Checked often, because closing waits for it.
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()
