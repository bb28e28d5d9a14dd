"""Files: uploaded, listed, read back, deleted."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from serving import Running

CONTENT = b'{"a": 1}\r\n\xc3\xa8'


@pytest.fixture(scope="module")
def client(kept: Running) -> Iterator[openai.OpenAI]:
    with kept.client() as client:
        yield client


def test_a_file_comes_back_as_it_was_sent(client: openai.OpenAI) -> None:
    file = client.files.create(
        file=("perché/../x.jsonl", CONTENT),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (file.bytes, file.status, file.purpose) == (len(CONTENT), "processed", "fine-tune")
    assert file.expires_at == file.created_at + 3600
    assert client.files.retrieve(file.id) == client.files.wait_for_processing(file.id) == file
    assert client.files.content(file.id).content == CONTENT
    assert client.files.delete(file.id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            call(file.id)


def test_equal_files_are_stored_once(kept: Running, client: openai.OpenAI) -> None:
    one, two = (client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune") for _ in range(2))
    assert one.id != two.id
    client.files.delete(one.id)
    assert client.files.content(two.id).content == b"{}"
    client.files.delete(two.id)
    assert not [path for path in (kept.folder / "files").rglob("*") if path.is_file()]


def test_lists_are_read_to_their_end(client: openai.OpenAI) -> None:
    ids = [client.files.create(file=(f"{number}.txt", b"x"), purpose="user_data").id for number in range(5)]
    assert [file.id for file in client.files.list(limit=2, purpose="user_data")] == ids[::-1]
    assert [file.id for file in client.files.list(limit=2, purpose="user_data", order="asc")] == ids
    assert client.files.list(purpose="batch").data == []


def test_an_upload_that_is_repeated_is_one_file(kept: Running) -> None:
    with kept.http() as http:
        send = {"files": {"file": ("r.jsonl", b"{}")}, "data": {"purpose": "fine-tune"}}
        first = http.post("/v1/files", **send).json()["id"]  # type: ignore[arg-type]
        again = http.post("/v1/files", headers={"x-stainless-retry-count": "1"}, **send).json()["id"]  # type: ignore[arg-type]
    assert first == again


@pytest.mark.parametrize(
    ("name", "content", "purpose", "words"),
    [
        ("a.jsonl", b"", "fine-tune", "empty"),
        ("a.csv", b"a", "fine-tune", "must be .jsonl"),
        ("a.jsonl", b"a", "magic", "'purpose'"),
    ],
)
def test_what_is_wrong_is_said(client: openai.OpenAI, name: str, content: bytes, purpose: str, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        client.files.create(file=(name, content), purpose=purpose)  # type: ignore[arg-type]
