"""The client of the commands: pages, keys, and errors in the server's own words."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import start, start_with_folder

import bottega
from bottega.cli.api_client import ApiClient
from bottega.server.gate import GateSettings
from bottega.server.keys import KeyRing


def test_lists_are_read_in_pages(tmp_path: Path) -> None:
    with start_with_folder(tmp_path / "state") as running:
        client = ApiClient(f"{running.url}/v1/")
        file = tmp_path / 'a "quoted" name.txt'
        file.write_bytes(b"x" * 3000)
        ids = [client.upload(file, "user_data")["id"] for _ in range(3)]
        assert [one["id"] for one in client.pages("/files")] == ids[::-1]
        assert [one["id"] for one in client.pages("/files", limit=2)] == ids[:0:-1]
        assert client.get(f"/files/{ids[0]}")["bytes"] == 3000
        assert client.content(f"/files/{ids[0]}/content") == b"x" * 3000
        assert client.delete(f"/files/{ids[0]}")["deleted"]
        with pytest.raises(bottega.RunError, match="No such File object"):
            client.get(f"/files/{ids[0]}")


def test_keys_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = bottega.Deployment()
    url, end = start(deployment, GateSettings(KeyRing("secret")))
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with pytest.raises(bottega.RunError, match="Incorrect API key") as raised:
        ApiClient(f"{url}/v1").get("/models")
    assert "bottega keys create" in str(raised.value.fix)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert ApiClient(f"{url}/v1").get("/models")["data"] == []
    end()
    deployment.close()
