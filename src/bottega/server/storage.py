"""The bytes of files on disk, by their checksum: a name from a request is never a path."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import BinaryIO

import anyio.to_thread

from bottega.server.errors import ApiError

# Seconds after which a file that nothing remembers is nobody's.
FORGOTTEN_SECONDS = 3600

# Bytes that are copied at once.
CHUNK = 1 << 20

# The name of a file that is being written.
PARTIAL = "partial-"


class Storage:
    """A folder of files, each complete or absent.

    max_bytes  most bytes of one file
    """

    def __init__(self, folder: Path, max_bytes: int = 512 << 20) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the file with a checksum is."""
        return self.folder / digest[:2] / digest

    async def write(self, chunks: AsyncIterator[bytes], max_bytes: int | None = None) -> tuple[str, int]:
        """Keep what comes in pieces; returns (its checksum, its bytes). An ApiError if it is empty or too large."""
        limit = max_bytes or self.max_bytes
        with _Incoming(self.folder) as incoming:
            async for chunk in chunks:
                incoming.add(chunk)
                if incoming.size > limit:
                    message = f"The file has more than {limit} bytes."
                    raise ApiError(413, message, param="file", code="file_too_large")
            if not incoming.size:
                raise ApiError(400, "The file is empty.", param="file", code="empty_file")
            # Waiting for the disk must not hold up other answers.
            return await anyio.to_thread.run_sync(self._keep, incoming)

    def join(self, digests: Sequence[str]) -> tuple[str, int, str]:
        """Keep the contents of files one after the other; returns (the checksum, the bytes, the MD5) of the whole."""
        md5 = hashlib.md5(usedforsecurity=False)
        with _Incoming(self.folder) as incoming:
            for part in digests:
                with self.path(part).open("rb") as file:
                    while chunk := file.read(CHUNK):
                        incoming.add(chunk)
                        md5.update(chunk)
            return *self._keep(incoming), md5.hexdigest()

    def write_bytes(self, data: bytes) -> tuple[str, int]:
        """Keep bytes; returns (their checksum, how many)."""
        with _Incoming(self.folder) as incoming:
            incoming.add(data)
            return self._keep(incoming)

    def _keep(self, incoming: _Incoming) -> tuple[str, int]:
        digest = incoming.digest.hexdigest()
        place = self.path(digest)
        place.parent.mkdir(exist_ok=True)
        incoming.move(place)
        return digest, incoming.size

    def remove(self, digest: str) -> None:
        """Forget a file."""
        self.path(digest).unlink(missing_ok=True)

    def clean(self, kept: Collection[str]) -> None:
        """Remove what a killed server left: half files, and whole ones that nothing remembers."""
        for place in self.folder.iterdir():
            if place.name.startswith(PARTIAL):
                if _age(place) > FORGOTTEN_SECONDS:
                    place.unlink(missing_ok=True)
            elif place.is_dir():
                for file in place.iterdir():
                    # One that was just written may not be remembered yet.
                    if file.name not in kept and _age(file) > FORGOTTEN_SECONDS:
                        file.unlink(missing_ok=True)

    @property
    def free_bytes(self) -> int:
        """What the disk has room for."""
        return shutil.disk_usage(self.folder).free


def _age(file: Path) -> float:
    """Seconds since a file was written; 0 if another server has just removed it."""
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


class _Incoming:
    """A file that is being written, and its checksum so far; gone unless it is moved to its place."""

    def __init__(self, folder: Path) -> None:
        handle, name = tempfile.mkstemp(prefix=PARTIAL, dir=folder)
        self.file: BinaryIO = os.fdopen(handle, "wb")
        self.path, self.digest, self.size = Path(name), hashlib.sha256(), 0

    def __enter__(self) -> _Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)

    def add(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def move(self, place: Path) -> None:
        """Give the file its name, once all of it is on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self.path, place)
        handle = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
