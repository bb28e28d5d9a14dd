"""A studio that runs on a free port, and a plain client of its API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from serving import start

import bottega
from bottega.studio.app import create_studio
from bottega.studio.workshop import Workshop

# Seconds after which a task that a test waits for is given up.
PATIENCE = 120


class Studio(NamedTuple):
    """A studio: where it is, its workshop, and a client that shows a key."""

    url: str
    workshop: Workshop
    http: httpx2.Client

    def get(self, path: str) -> Any:
        """The document at a path of the API."""
        answer = self.http.get(f"/studio/api/{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        """The answer to a document."""
        answer = self.http.post(f"/studio/api/{path}", json={} if body is None else body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refusal(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The error that is answered."""
        answer = self.http.request(method, f"/studio/api/{path}", json=body)
        assert answer.status_code >= 400
        return dict(answer.json()["error"])

    def upload(self, name: str, content: bytes, part: int = 1 << 20, **more: Any) -> dict[str, Any]:
        """Send a file as the page does; the finished task that read it."""
        upload = self.post("data/uploads", {"file": name, "size": len(content)})["id"]
        for offset in range(0, len(content), part):
            sent = self.http.put(f"/studio/api/data/uploads/{upload}/{offset}", content=content[offset : offset + part])
            assert sent.status_code == 200, sent.text
        return self.wait(self.post(f"data/uploads/{upload}/import", {"file": name, **more})["task"])

    def wait(self, task: str, *states: str) -> dict[str, Any]:
        """A task once it has ended, or is in one of these states."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            document = self.get(f"tasks/{task}")
            if document["status"] in (states or ("done", "failed", "stopped", "interrupted")):
                return dict(document)
            time.sleep(0.1)
        raise AssertionError(f"still {document['status']}: {document}")


@contextmanager
def run_studio(folder: Path, **options: Any) -> Iterator[Studio]:
    """A studio in a folder while the block runs; its tasks go on afterwards."""
    deployment = bottega.Deployment(bottega.DeploymentSettings(dtype="float32"))
    workshop = Workshop(folder / "runs", folder / "server", deployment)
    workshop.open()
    url, end = start(deployment, studio=create_studio(workshop), **options)
    with httpx2.Client(base_url=url, headers={"authorization": "Bearer any"}, timeout=60) as http:
        yield Studio(url, workshop, http)
    end()
    workshop.close()
    deployment.close()
