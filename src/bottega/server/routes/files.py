"""Files that are uploaded, and those that jobs write."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse
from sqlalchemy import select

from bottega.server.errors import ApiError
from bottega.server.jobs.runner import new_file_id
from bottega.server.pages import page_document
from bottega.server.state import State, StoredFile, find, is_in_use
from bottega.server.storage import CHUNK, Storage
from bottega.server.wire import RETRY_SECONDS, is_retry

router = APIRouter()

Purpose = Literal["fine-tune", "evals", "batch", "user_data", "assistants", "vision"]


def file_document(file: StoredFile) -> dict[str, Any]:
    """A file, as the API describes it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def check_name(name: str, purpose: str) -> None:
    """Raise an ApiError for the name of a file that cannot be what its purpose says."""
    if purpose == "fine-tune" and not name.lower().endswith(".jsonl"):
        message = f"Invalid file format for fine-tuning: {name}. Files must be .jsonl: a JSON object on every line."
        raise ApiError(400, message, param="file", code="invalid_file_format")


@router.post("/v1/files")
async def create_file(
    request: Request,
    file: UploadFile,
    purpose: Annotated[Purpose, Form()],
    anchor: Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]")] = None,
    seconds: Annotated[int | None, Form(alias="expires_after[seconds]", ge=3600, le=2592000)] = None,
) -> Any:
    """Upload a file."""
    name = file.filename or "file"
    check_name(name, purpose)
    storage: Storage = request.app.state.storage
    state: State = request.app.state.tables
    digest, size = await storage.write(chunks_of(file))
    now = int(time.time())
    with state.transaction() as session:
        if is_retry(request):
            same = select(StoredFile).filter_by(digest=digest, filename=name, purpose=purpose)
            earlier = session.scalars(same.where(StoredFile.created_at > now - RETRY_SECONDS)).first()
            if earlier is not None:
                return file_document(earlier)
        expires = None if seconds is None else now + seconds
        kept = StoredFile(
            id=new_file_id(),
            filename=name,
            purpose=purpose,
            bytes=size,
            digest=digest,
            expires_at=expires,
            created_at=now,
        )
        session.add(kept)
    return file_document(kept)


async def chunks_of(file: UploadFile) -> AsyncIterator[bytes]:
    """The bytes of an uploaded file, piece by piece."""
    while chunk := await file.read(CHUNK):
        yield chunk


@router.get("/v1/files")
async def list_files(
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Any:
    """All files, the newest first."""
    return page_document(
        request, StoredFile, file_document, after=after, limit=limit, ascending=order == "asc", purpose=purpose
    )


def existing_file(request: Request, file_id: str) -> StoredFile:
    """The file with an id that has not expired; 404 if there is none."""
    state: State = request.app.state.tables
    file = state.get(StoredFile, file_id)
    if file is None or (file.expires_at is not None and file.expires_at < time.time()):
        raise ApiError(404, f"No such File object: {file_id}", param="id")
    return file


@router.get("/v1/files/{file_id}")
async def retrieve_file(request: Request, file_id: str) -> Any:
    """What is known of a file."""
    return file_document(existing_file(request, file_id))


@router.get("/v1/files/{file_id}/content")
async def retrieve_content(request: Request, file_id: str) -> FileResponse:
    """The bytes of a file, as they were uploaded."""
    file = existing_file(request, file_id)
    storage: Storage = request.app.state.storage
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}"}
    return FileResponse(storage.path(file.digest), media_type="application/octet-stream", headers=headers)


@router.delete("/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> Any:
    """Forget a file; a job that was created with it keeps what it reads."""
    file = existing_file(request, file_id)
    state: State = request.app.state.tables
    with state.transaction() as session:
        session.delete(find(session, StoredFile, file_id))
        session.flush()
        in_use = is_in_use(session, file.digest)
    if not in_use:
        request.app.state.storage.remove(file.digest)
    return {"id": file_id, "object": "file", "deleted": True}
