"""Keys: who may ask for what, and how often. Only their hashes are kept; a key is shown once, when it is made."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

import bottega
from bottega.server.state import ApiKey, State

# What a key may be for: asking models; files, jobs and tuned models; what programs that watch the server ask for.
SCOPES = ("infer", "train", "admin")

# How keys begin, so that they are recognized where they should not be.
PREFIX = "sk-bottega-"

# Seconds after which keys are read again: one that was revoked is refused from then on.
REFRESH_SECONDS = 1.0


@dataclass(frozen=True)
class Access:
    """What a key opens. `per_minute`: most requests a minute; None for any number."""

    id: str
    scopes: frozenset[str]
    per_minute: int | None = None


# Where no key is set up, every key opens everything.
OPEN = Access("open", frozenset(SCOPES))


class KeyRing:
    """The keys of a server.

    key     one that opens everything, besides those in the tables
    tables  where keys that were made are kept
    """

    def __init__(self, key: str | None = None, tables: State | None = None) -> None:
        self._tables = tables
        self._given = None if key is None else _digest(key)
        self._known: dict[str, Access] = {}
        self._were_made = False
        self._read, self._version = 0.0, object()  # of the tables, equal to none
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    @property
    def is_required(self) -> bool:
        """Whether a request must show one of these keys, and not just any."""
        self._refresh()
        return self._given is not None or self._were_made

    def find(self, shown: str) -> Access | None:
        """What a key opens; None if it is none of these."""
        if not self.is_required:
            return OPEN
        digest = _digest(shown)
        if self._given is not None and hmac.compare_digest(digest, self._given):
            return Access("given", frozenset(SCOPES))
        # Found by its hash: how long that takes says nothing about the key.
        return self._known.get(digest)

    def seconds_to_wait(self, access: Access) -> float:
        """0 if a key may ask now, and counts it; else when it may again. As many requests at once as in a minute."""
        if access.per_minute is None:
            return 0.0
        rate = access.per_minute / 60
        with self._lock:
            now = time.monotonic()
            left, before = self._buckets.get(access.id, (float(access.per_minute), now))
            left = min(access.per_minute, left + rate * (now - before))
            allowed = left >= 1
            self._buckets[access.id] = (left - 1 if allowed else left, now)
        return 0.0 if allowed else (1 - left) / rate

    def _refresh(self) -> None:
        if self._tables is None or time.monotonic() - self._read < REFRESH_SECONDS:
            return
        with self._lock:
            version = self._tables.version()
            if version != self._version:
                with self._tables.transaction() as session:
                    rows = list(session.scalars(select(ApiKey)))
                # Revoked ones too: a server whose last key was revoked is not open to all.
                self._were_made = bool(rows)
                valid = (row for row in rows if row.revoked_at is None)
                self._known = {row.digest: Access(row.id, frozenset(row.scopes), row.per_minute) for row in valid}
            # Last: after an error the keys are read again at once.
            self._read, self._version = time.monotonic(), version


def make_key(tables: State, name: str, scopes: Sequence[str] = SCOPES, per_minute: int | None = None) -> str:
    """A new key, which is returned here and can never be read again."""
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        what = f"no such scope: {unknown[0]}" if unknown else "a key without a scope"
        raise bottega.RecipeError(what, where="--scope", fix=f"one or several of: {', '.join(SCOPES)}")
    key = PREFIX + secrets.token_urlsafe(32)
    row = ApiKey(
        id=f"key_{secrets.token_hex(6)}",
        name=name,
        digest=_digest(key),
        scopes=sorted(set(scopes)),
        per_minute=per_minute,
        created_at=int(time.time()),
    )
    tables.add(row)
    return key


def list_keys(tables: State) -> list[dict[str, Any]]:
    """All keys, without what would open anything."""
    with tables.transaction() as session:
        rows = list(session.scalars(select(ApiKey).order_by(ApiKey.number)))
    return [
        {
            "id": row.id,
            "name": row.name,
            "scopes": row.scopes,
            "per_minute": row.per_minute,
            "created_at": row.created_at,
            "revoked_at": row.revoked_at,
        }
        for row in rows
    ]


def revoke_key(tables: State, key_id: str) -> None:
    """Refuse a key from now on; a RunError if there is none with this id."""
    with tables.transaction() as session:
        row = session.scalars(select(ApiKey).filter_by(id=key_id)).one_or_none()
        if row is None:
            raise bottega.RunError("no such key", where=key_id, fix="list them: bottega keys list")
        row.revoked_at = row.revoked_at or int(time.time())


def _digest(key: str) -> str:
    # A key is random, so that a fast hash is enough: nobody can try all of them.
    return hashlib.sha256(key.encode()).hexdigest()
