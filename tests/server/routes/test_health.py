"""What programs that watch a server ask for."""

from __future__ import annotations

import re

import httpx2
from serving import Running

LINE = re.compile(r'(# (HELP|TYPE) bottega_\w+ .+|bottega_\w+\{model="[^"]*"\} \d+)')


def test_a_program_without_a_key_sees_that_the_server_answers(server: Running) -> None:
    assert httpx2.get(f"{server.url}/healthz").json() == {"status": "ok"}
    assert httpx2.get(f"{server.url}/metrics").status_code == 401


def test_counts_grow_with_use(server: Running) -> None:
    def tokens() -> int:
        text = http.get("/metrics").text
        assert all(LINE.fullmatch(line) for line in text.splitlines())
        found = re.search(r'^bottega_generated_tokens_total\{model="base"\} (\d+)$', text, re.M)
        return int(found[1]) if found else 0

    with server.http() as http:
        http.post("/v1/completions", json={"model": "base", "prompt": "the", "max_tokens": 3})
        before = tokens()
        http.post("/v1/completions", json={"model": "base", "prompt": "the", "max_tokens": 3})
        assert before < tokens() <= before + 3
