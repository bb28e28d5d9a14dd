"""A real server on a free port, and the clients that people use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import openai

import bottega
from bottega.server.app import Backend, create_app, open_backend
from bottega.server.gate import GateSettings
from bottega.server.run import open_socket, run
from making import write_jsonl

TEMPLATE = (
    "{% if tools %}tools: {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}[{{ m.role }}] {{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


class Running(NamedTuple):
    """A server that runs: where, and what it serves."""

    url: str
    deployment: bottega.Deployment
    folder: Path
    backend: Backend | None = None

    def client(self, **options: Any) -> openai.OpenAI:
        """The unmodified client; `strict` by default, so that it checks every answer."""
        settings = {"api_key": "any", "max_retries": 0, "_strict_response_validation": True, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **settings)

    def http(self) -> httpx2.Client:
        """Plain HTTP with a key."""
        return httpx2.Client(base_url=self.url, headers={"authorization": "Bearer any"}, timeout=60)


def start(
    deployment: bottega.Deployment, gate: GateSettings | None = None, backend: Backend | None = None, **options: Any
) -> tuple[str, Callable[[], None]]:
    """(the address of a server in a thread, what stops it); `options`: see `create_app`."""
    listening, stop = open_socket("127.0.0.1", 0), threading.Event()
    app = create_app(deployment, gate, backend, **options)
    thread = threading.Thread(target=run, args=(app, listening, stop.is_set), daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()

    return f"http://127.0.0.1:{listening.getsockname()[1]}", end


@contextmanager
def start_with_folder(folder: Path, *, runs_graders_code: bool = False, **sources: Path) -> Iterator[Running]:
    """A server that keeps files and jobs in a folder, with some models."""
    deployment = bottega.Deployment(bottega.DeploymentSettings(dtype="float32"))
    for name, source in sources.items():
        deployment.add(name, source)
    backend = open_backend(folder, deployment, runs_graders_code=runs_graders_code)
    url, end = start(deployment, backend=backend)
    yield Running(url, deployment, folder, backend)
    end()
    backend.close()
    deployment.close()


def train(out: Path, base: Path, kind: str, rows: list[dict[str, Any]], **sections: Any) -> Path:
    """A run of a few updates; returns its folder."""
    recipe = {
        "model": {"base": str(base)},
        "objective": {"kind": kind},
        "data": {"train": str(write_jsonl(out.with_suffix(".jsonl"), rows))},
        "optim": {"steps": 6, "examples": 4, "lr": 2e-2},
        **sections,
    }
    list(bottega.train(bottega.Recipe.parse(recipe), out=out))
    return out
