"""Large files in parts."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

import openai
import pytest
from serving import Running

from bottega.server.routes import uploads
from bottega.server.state import Upload

DATA = b'{"a": 1}\n' * 1000


@pytest.fixture(scope="module")
def client(kept: Running) -> Iterator[openai.OpenAI]:
    with kept.client() as client:
        yield client


def begin(client: openai.OpenAI, size: int = len(DATA), name: str = "rows.jsonl") -> str:
    return client.uploads.create(bytes=size, filename=name, mime_type="application/jsonl", purpose="fine-tune").id


def files(kept: Running) -> int:
    return sum(path.is_file() for path in (kept.folder / "files").rglob("*"))


def test_the_helper_of_the_client(kept: Running, client: openai.OpenAI) -> None:
    """Also with parts of one size and contents; nothing is left but the file."""
    for part_size in (1 << 20, 900):
        upload = client.uploads.upload_file_chunked(
            file=DATA, filename="rows.jsonl", bytes=len(DATA), mime_type="application/jsonl", purpose="fine-tune",
            part_size=part_size, md5=hashlib.md5(DATA).hexdigest(),
        )  # fmt: skip
        assert upload.status == "completed"
        assert upload.file is not None
        assert client.files.content(upload.file.id).content == DATA
    assert files(kept) == 1
    with pytest.raises(openai.BadRequestError, match="is completed"):
        client.uploads.cancel(upload.id)


def test_parts_come_in_any_order(client: openai.OpenAI) -> None:
    upload = begin(client, 6)
    second, first = (client.uploads.parts.create(upload, data=io.BytesIO(data)).id for data in (b"456", b"123"))
    done = client.uploads.complete(upload, part_ids=[first, second])
    assert done.file is not None
    assert client.files.content(done.file.id).content == b"123456"


def test_an_upload_that_is_given_up_leaves_nothing(kept: Running, client: openai.OpenAI) -> None:
    before, upload = files(kept), begin(client)
    client.uploads.parts.create(upload, data=b"given up")
    assert files(kept) == before + 1
    assert client.uploads.cancel(upload).status == "cancelled"
    assert files(kept) == before
    with pytest.raises(openai.BadRequestError, match="is cancelled"):
        client.uploads.parts.create(upload, data=b"x")


def test_what_is_wrong_is_said(kept: Running, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(openai.BadRequestError, match=r"must be \.jsonl"):
        begin(client, name="rows.csv")
    upload = begin(client, 6)
    part = client.uploads.parts.create(upload, data=b"123").id
    with pytest.raises(openai.BadRequestError, match="3 bytes together, and 6 were announced"):
        client.uploads.complete(upload, part_ids=[part])
    with pytest.raises(openai.BadRequestError, match="has no part part_nope"):
        client.uploads.complete(upload, part_ids=[part, "part_nope"])
    with pytest.raises(openai.BadRequestError, match="MD5"):
        client.uploads.complete(upload, part_ids=[part, part], md5="0" * 32)
    monkeypatch.setattr(uploads, "MAX_PART", 2)
    with pytest.raises(openai.APIStatusError, match="more than 2 bytes"):
        client.uploads.parts.create(upload, data=b"123")
    with pytest.raises(openai.NotFoundError, match="No such Upload"):
        client.uploads.cancel("upload_nope")


def test_an_upload_expires(kept: Running, client: openai.OpenAI) -> None:
    upload = begin(client)
    assert kept.backend is not None
    with kept.backend.tables.transaction() as session:
        session.query(Upload).filter_by(id=upload).update({"expires_at": 1})
    with pytest.raises(openai.BadRequestError, match="is expired"):
        client.uploads.parts.create(upload, data=b"1")
