"""What is written down of requests."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest
from serving import start

import bottega
from bottega.server.gate import GateSettings
from bottega.server.keys import KeyRing
from bottega.server.request_log import RequestLog

HEADERS = {"authorization": "Bearer sk-key"}


@pytest.mark.parametrize("with_bodies", [False, True])
def test_a_line_for_every_request(tmp_path: Path, with_bodies: bool) -> None:
    """Prompts are in it only where that is asked for; keys never are."""
    deployment = bottega.Deployment()
    log = RequestLog(tmp_path / "log.jsonl", with_bodies=with_bodies)
    url, end = start(deployment, GateSettings(KeyRing("sk-key")), log=log)
    body = {"model": "none", "messages": [{"role": "user", "content": "a secret"}]}
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body, headers=HEADERS)
    refused = httpx2.get(f"{url}/v1/models")
    end()
    log.close()
    deployment.close()
    text = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    first, second = map(json.loads, text.splitlines())
    assert (first["status"], first["method"], first["path"]) == (404, "POST", "/v1/chat/completions")
    assert (first["id"], second["id"]) == (answer.headers["x-request-id"], refused.headers["x-request-id"])
    assert (first["key"], second["key"], second["status"]) == ("given", None, 401)
    assert first["bytes"] == len(answer.content)
    assert ("a secret" in text) == with_bodies
    assert "sk-key" not in text


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(bottega.DiskError, match="the log cannot be written"):
        RequestLog(tmp_path / "nowhere" / "log.jsonl")


def test_a_failure_is_logged_with_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = bottega.Deployment()
    log = RequestLog(tmp_path / "log.jsonl")
    monkeypatch.setattr(bottega.Deployment, "names", property(lambda _: {}["nothing"]))
    url, end = start(deployment, log=log)
    answer = httpx2.get(f"{url}/v1/models", headers=HEADERS)
    end()
    log.close()
    deployment.close()
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines())
    assert (answer.status_code, line["status"]) == (500, 500)
    assert answer.headers["x-request-id"] == line["id"]
    assert answer.json()["error"]["type"] == "server_error"
