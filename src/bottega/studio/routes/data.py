"""Data sets: uploads, versions, rows, audits."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import bottega
from bottega.studio.calls import in_thread, workshop_of
from bottega.studio.workshop import MAX_PART, Workshop

router = APIRouter(prefix="/data")

# Characters of the longest suffix that says how a file is read, and more.
MAX_SUFFIX = 12


class NewUpload(BaseModel):
    """A file that will be sent in parts."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(min_length=1, max_length=255)
    size: int = Field(ge=1)


class FileLayout(BaseModel):
    """How to read a file that does not say so itself: fields of `bottega.Source`."""

    model_config = ConfigDict(extra="forbid")

    encoding: str | None = None
    delimiter: str | None = None
    header: bool | None = None
    columns: list[str] | None = None


class Import(BaseModel):
    """What becomes of a file that was sent."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    file: str = Field(min_length=1, max_length=255)
    layout: FileLayout = FileLayout()


class AuditRequest(BaseModel):
    """An audit. `model`: whose tokens are counted; `only`: the checks whose faults are mended."""

    model_config = ConfigDict(extra="forbid")

    version: int
    model: str | None = None
    only: list[str] = []


class ReadingChoice(BaseModel):
    """How the rows of a version are read: their format, and what their fields are called in the file."""

    model_config = ConfigDict(extra="forbid")

    version: int
    format: str = "auto"
    mapping: dict[str, str] = {}

    def reading(self) -> dict[str, Any]:
        """What was chosen, without what is left to be found out; a RecipeError for an unknown format."""
        chosen = self.model_dump(include={"format", "mapping"}, exclude_defaults=True)
        try:
            bottega.Reading(**chosen)
        except ValidationError as error:
            what, fix = bottega.describe_errors(error.errors()[:1])
            raise bottega.RecipeError(what, where="format", fix=fix) from None
        return chosen


@router.get("")
async def list_data(request: Request) -> Any:
    """All data sets, each with its newest version."""
    data = workshop_of(request).data
    return await in_thread(lambda: [{"name": name, **asdict(data.versions(name)[0])} for name in data.names()])


@router.post("/uploads")
async def begin_upload(request: Request, body: NewUpload) -> Any:
    """Begin to send a file."""
    workshop = workshop_of(request)
    return {"id": await in_thread(lambda: workshop.begin_upload(body.size)), "part": MAX_PART}


@router.put("/uploads/{upload}/{offset}")
async def send_part(request: Request, upload: str, offset: Annotated[int, Path(ge=0)]) -> Any:
    """Send a part of a file, from a byte on."""
    part = await request.body()
    return {"size": await in_thread(lambda: workshop_of(request).write_part(upload, offset, part))}


@router.post("/uploads/{upload}/import")
async def import_upload(request: Request, upload: str, body: Import) -> Any:
    """Make a data set of a file that was sent: a task."""
    workshop = workshop_of(request)
    file = PurePath(body.file.replace("\\", "/")).name
    path = await in_thread(lambda: workshop.upload_path(upload))
    # The suffix decides how a file is read; what is longer than any that does is a part of a name with dots.
    suffixes = [suffix for suffix in PurePath(file).suffixes[-2:] if len(suffix) <= MAX_SUFFIX]
    named = path.with_name(path.name + "".join(suffixes).lower())
    path.rename(named)
    folder = str(workshop.data.folder)
    arguments = {
        "path": str(named),
        "file": file,
        "folder": folder,
        "layout": body.layout.model_dump(exclude_none=True),
    }
    task, name = await in_thread(lambda: workshop.submit_import(body.name or file.split(".")[0], arguments))
    return {"task": task, "name": name}


@router.get("/{name}")
async def get_data(request: Request, name: str) -> Any:
    """A data set with all its versions."""
    data = workshop_of(request).data
    return await in_thread(lambda: {"name": name, "versions": [asdict(version) for version in data.versions(name)]})


@router.delete("/{name}")
async def delete_data(request: Request, name: str) -> Any:
    """Delete a data set."""
    await in_thread(lambda: _delete(workshop_of(request), name))
    return {}


def _delete(workshop: Workshop, name: str) -> None:
    tasks = [task for task in workshop.tasks.documents() if tuple(task["subject"]) == ("data", name)]
    if any(task["status"] in ("waiting", "running") for task in tasks):
        raise bottega.DataError("a task is at work on it", where=name, fix="wait until it has ended, or stop it first")
    workshop.data.remove(name)


@router.get("/{name}/rows")
async def get_rows(request: Request, name: str, version: int | None = None, start: int = 0, count: int = 20) -> Any:
    """Some rows as they are in the file."""
    data = workshop_of(request).data
    return {"rows": await in_thread(lambda: data.rows(name, version, max(start, 0), min(max(count, 1), 200)))}


@router.post("/{name}/examples")
async def read_examples(request: Request, name: str, body: ReadingChoice) -> Any:
    """The first rows as a format and a mapping read them."""
    path = workshop_of(request).data.rows_path(name, body.version)
    source = bottega.Source.model_validate({"path": str(path), **body.reading()})
    return asdict(await in_thread(lambda: bottega.row_examples(source)))


@router.put("/{name}/reading")
async def choose_reading(request: Request, name: str, body: ReadingChoice) -> Any:
    """Choose how the rows are read from now on."""
    data, reading = workshop_of(request).data, body.reading()
    await in_thread(lambda: data.choose_reading(name, body.version, reading))
    return {}


@router.post("/{name}/audit")
async def audit_data(request: Request, name: str, body: AuditRequest) -> Any:
    """Look for what is wrong with the rows: a task."""
    workshop = workshop_of(request)
    model = workshop.model_source(body.model) if body.model else None
    return _submit(workshop, "audit", name, body, {"model": model})


@router.post("/{name}/fix")
async def fix_data(request: Request, name: str, body: AuditRequest) -> Any:
    """Write a cleaned copy as a new version: a task."""
    workshop = workshop_of(request)
    return _submit(workshop, "fix", name, body, {"only": body.only, "folder": str(workshop.data.folder)})


def _submit(workshop: Workshop, verb: str, name: str, body: AuditRequest, more: dict[str, Any]) -> dict[str, Any]:
    source = workshop.data.source(name, body.version)
    arguments = {"name": name, "version": body.version, **source, **more}
    return {"task": workshop.tasks.submit(verb, arguments, ("data", name)).id}
