"""Which of several servers over the same tables and folder has a job, and whether that server is still there.

A server holds a lock on a file of its own, which the system gives back when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import secrets
from pathlib import Path


class ServerMark:
    """This server among the others. `folder`: which they share."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.id = folder, secrets.token_hex(8)
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path(self.id).open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        for path in folder.glob("*.lock"):
            self.is_alive(path.stem)

    def is_alive(self, server: str) -> bool:
        """Whether a server is still there; of one that is not, the file is removed."""
        if server == self.id:
            return True
        try:
            # For writing: over NFS only such a file can be locked.
            with self._path(server).open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        self._path(server).unlink(missing_ok=True)
        return False

    def close(self) -> None:
        """Leave: from now on this server is not there."""
        self._path(self.id).unlink(missing_ok=True)
        self._file.close()

    def _path(self, server: str) -> Path:
        return self.folder / f"{server}.lock"
