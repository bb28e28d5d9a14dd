"""Uploads of large files in parts."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, UploadFile
from pydantic import Field
from sqlalchemy import select

from bottega.server.errors import ApiError
from bottega.server.generation import in_thread
from bottega.server.jobs.runner import new_file_id
from bottega.server.routes.files import Purpose, check_name, chunks_of, file_document
from bottega.server.state import State, StoredFile, Upload, UploadPart, find, is_in_use
from bottega.server.storage import Storage
from bottega.server.wire import WireModel

router = APIRouter()

# Most bytes of a part and of a whole file.
MAX_PART, MAX_BYTES = 64 << 20, 8 << 30

# Seconds in which an upload must be completed.
UPLOAD_SECONDS = 3600


class ExpiresAfter(WireModel):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2592000)


class UploadRequest(WireModel):
    """The body of a new upload."""

    bytes: int = Field(ge=1, le=MAX_BYTES)
    filename: str = Field(min_length=1, max_length=1024)
    mime_type: str = Field(max_length=256)
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class CompletionOfUpload(WireModel):
    """The body that completes an upload."""

    part_ids: Annotated[list[str], Field(min_length=1, max_length=8192)]
    md5: str | None = None


def _document(upload: Upload, file: StoredFile | None = None) -> dict[str, Any]:
    expired = upload.status == "pending" and upload.expires_at < time.time()
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": upload.created_at,
        "expires_at": upload.expires_at,
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": "expired" if expired else upload.status,
        "file": None if file is None else file_document(file),
    }


@router.post("/v1/uploads")
async def create_upload(request: Request, body: UploadRequest) -> Any:
    """Begin an upload."""
    check_name(body.filename, body.purpose)
    storage: Storage = request.app.state.storage
    if body.bytes > storage.free_bytes:
        raise ApiError(400, "The server's disk has no room for a file of this size.", param="bytes", code="disk_full")
    upload = Upload(
        id=f"upload_{secrets.token_hex(12)}",
        created_at=int(time.time()),
        filename=body.filename,
        purpose=body.purpose,
        mime_type=body.mime_type,
        bytes=body.bytes,
        expires_at=int(time.time()) + UPLOAD_SECONDS,
        keep_seconds=None if body.expires_after is None else body.expires_after.seconds,
        status="pending",
    )
    request.app.state.tables.add(upload)
    return _document(upload)


def _pending(request: Request, upload_id: str) -> Upload:
    """The upload with an id, which waits for parts."""
    state: State = request.app.state.tables
    upload = state.get(Upload, upload_id)
    if upload is None:
        raise ApiError(404, f"No such Upload object: {upload_id}", param="id")
    if upload.status != "pending" or upload.expires_at < time.time():
        status = _document(upload)["status"]
        raise ApiError(400, f"The upload {upload_id} is {status}.", code="invalid_upload_state")
    return upload


@router.post("/v1/uploads/{upload_id}/parts")
async def add_part(request: Request, upload_id: str, data: UploadFile) -> Any:
    """Add a part; parts may come in any order, and at once."""
    _pending(request, upload_id)
    storage: Storage = request.app.state.storage
    digest, size = await storage.write(chunks_of(data), MAX_PART)
    part = UploadPart(
        id=f"part_{secrets.token_hex(12)}", created_at=int(time.time()), upload_id=upload_id, bytes=size, digest=digest
    )
    request.app.state.tables.add(part)
    return {"id": part.id, "object": "upload.part", "created_at": part.created_at, "upload_id": upload_id}


@router.post("/v1/uploads/{upload_id}/complete")
async def complete_upload(request: Request, upload_id: str, body: CompletionOfUpload) -> Any:
    """Make a file of the parts, in the order in which they are given."""
    upload = _pending(request, upload_id)
    state, storage = request.app.state.tables, request.app.state.storage
    with state.transaction() as session:
        known = {part.id: part for part in session.scalars(select(UploadPart).filter_by(upload_id=upload_id))}
    unknown = next((part for part in body.part_ids if part not in known), None)
    if unknown is not None:
        raise ApiError(400, f"The upload has no part {unknown}.", param="part_ids", code="invalid_value")
    parts = [known[part] for part in body.part_ids]
    size = sum(part.bytes for part in parts)
    if size != upload.bytes:
        message = f"The parts have {size} bytes together, and {upload.bytes} were announced."
        raise ApiError(400, message, param="part_ids", code="invalid_value")
    digest, _, md5 = await in_thread(lambda: storage.join([part.digest for part in parts]))
    if body.md5 is not None and body.md5.lower() != md5:
        raise ApiError(400, f"The file has the MD5 {md5}, not {body.md5}.", param="md5", code="invalid_value")
    now = int(time.time())
    with state.transaction() as session:
        expires = None if upload.keep_seconds is None else now + upload.keep_seconds
        file = StoredFile(
            id=new_file_id(), created_at=now, filename=upload.filename, purpose=upload.purpose, bytes=size,
            digest=digest, expires_at=expires,
        )  # fmt: skip
        session.add(file)
        stored = find(session, Upload, upload_id)
        assert stored is not None, "uploads are never deleted"
        stored.status, stored.file_id = "completed", file.id
    _forget_parts(request, upload_id)
    return _document(stored, file)


@router.post("/v1/uploads/{upload_id}/cancel")
async def cancel_upload(request: Request, upload_id: str) -> Any:
    """Give an upload up."""
    _pending(request, upload_id)
    state: State = request.app.state.tables
    with state.transaction() as session:
        upload = find(session, Upload, upload_id)
        assert upload is not None, "uploads are never deleted"
        upload.status = "cancelled"
    _forget_parts(request, upload_id)
    return _document(upload)


def _forget_parts(request: Request, upload_id: str) -> None:
    state, storage = request.app.state.tables, request.app.state.storage
    with state.transaction() as session:
        digests = set()
        for part in session.scalars(select(UploadPart).filter_by(upload_id=upload_id)):
            digests.add(part.digest)
            session.delete(part)
        session.flush()
        unused = [digest for digest in digests if not is_in_use(session, digest)]
    for digest in unused:
        storage.remove(digest)
