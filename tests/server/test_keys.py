"""Keys: scopes, rates, and what is kept of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from serving import start

import bottega
from bottega.server import keys as module
from bottega.server.gate import GateSettings
from bottega.server.keys import Access, KeyRing, list_keys, make_key, revoke_key
from bottega.server.state import State


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[State]:
    tables = State(tmp_path)
    yield tables
    tables.close()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.0)


def test_without_keys_any_is_accepted(tables: State) -> None:
    ring = KeyRing(None, tables)
    assert not ring.is_required
    assert ring.find("anything") is module.OPEN
    key = make_key(tables, "mine")
    assert ring.is_required
    assert ring.find("anything") is None
    found = ring.find(key)
    assert found is not None
    assert found.scopes == {"infer", "train", "admin"}
    assert KeyRing("secret").find("secret") is not None
    assert KeyRing("secret").find("secreT") is None


def test_a_key_is_kept_as_its_hash_and_can_be_revoked(tables: State, tmp_path: Path) -> None:
    ring, key = KeyRing(None, tables), make_key(tables, "mine", ["infer"], per_minute=5)
    (listed,) = list_keys(tables)
    assert (listed["name"], listed["scopes"], listed["per_minute"]) == ("mine", ["infer"], 5)
    assert key not in str(listed)
    assert not any(key.encode() in path.read_bytes() for path in tmp_path.iterdir())
    revoke_key(tables, listed["id"])
    assert ring.find(key) is None
    with pytest.raises(bottega.RunError, match="no such key"):
        revoke_key(tables, "key_nope")
    with pytest.raises(bottega.RecipeError, match="no such scope: magic"):
        make_key(tables, "mine", ["magic"])


def test_requests_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    ring, access = KeyRing(), Access("a", frozenset(), per_minute=6)
    assert [ring.seconds_to_wait(access) for _ in range(6)] == [0.0] * 6
    assert ring.seconds_to_wait(access) == pytest.approx(10)
    now[0] += 10
    assert ring.seconds_to_wait(access) == 0.0
    assert ring.seconds_to_wait(access) > 9
    assert ring.seconds_to_wait(Access("b", frozenset())) == 0.0


def test_a_server_checks_scopes_and_rates(tables: State) -> None:
    deployment = bottega.Deployment()
    infer, train = make_key(tables, "a", ["infer"]), make_key(tables, "b", ["train"], per_minute=1)
    url, end = start(deployment, GateSettings(KeyRing(None, tables)))

    def ask(key: str, path: str, method: str = "GET") -> httpx2.Response:
        return httpx2.request(method, url + path, headers={"authorization": f"Bearer {key}"})

    assert ask(infer, "/v1/models").status_code == 200
    for key, path, method in (
        (infer, "/v1/files", "GET"),
        (infer, "/v1/models/a", "DELETE"),
        (infer, "/metrics", "GET"),
    ):
        answer = ask(key, path, method)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")
    assert ask(train, "/v1/models", "GET").status_code == 403
    assert ask(train, "/v1/files").status_code == 404  # this server has no files
    limited = ask(train, "/v1/files")
    assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 50_000 < int(limited.headers["retry-after-ms"]) <= 60_001
    end()
    deployment.close()
