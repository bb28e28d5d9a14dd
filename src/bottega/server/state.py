"""What the server remembers: files, jobs, their events and checkpoints, and the models that came of them.

In SQLite, or in PostgreSQL for several servers, through SQLAlchemy. Every change is one short transaction: after
`kill -9` the state is that before it or after it. The bytes of files are on disk (`storage`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Engine,
    ForeignKey,
    Integer,
    String,
    create_engine,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import bottega

AnyTableRow = TypeVar("AnyTableRow", bound="TableRow")

# SQLite counts rows only in columns of its own type.
Number = BigInteger().with_variant(Integer, "sqlite")

# States of a job in which nothing happens any more.
FINAL = frozenset({"succeeded", "failed", "cancelled"})


class Tables(DeclarativeBase):
    """The tables."""


class TableRow:
    """What all tables have in common. `number` rises with every row, and orders lists."""

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(128), unique=True)
    created_at: Mapped[int] = mapped_column(default=lambda: int(time.time()))


class StoredFile(TableRow, Tables):
    """A file that was uploaded, or that a job wrote. `digest`: the checksum by which `storage` has its bytes."""

    __tablename__ = "files"

    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(64), index=True)
    expires_at: Mapped[int | None] = mapped_column(default=None)


class Upload(TableRow, Tables):
    """A large file that comes in parts. `status`: `pending`, `completed` or `cancelled`."""

    __tablename__ = "uploads"

    filename: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int]
    keep_seconds: Mapped[int | None] = mapped_column(default=None)
    status: Mapped[str] = mapped_column(String(16), default="pending")
    file_id: Mapped[str | None] = mapped_column(default=None)


class UploadPart(TableRow, Tables):
    """A part of an upload."""

    __tablename__ = "upload_parts"

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(64), index=True)


class Job(TableRow, Tables):
    """A fine-tuning job.

    source           what `model` meant when the job was created
    request          digest of what was asked, by which a repeated submission is recognized
    wanted           what a client wants of it: `run`, `pause` or `cancel`
    owner            the server that has a process for it
    hyperparameters  as asked for, and the numbers that "auto" became once it has started
    """

    __tablename__ = "jobs"

    model: Mapped[str]
    source: Mapped[str]
    training_file: Mapped[str]
    validation_file: Mapped[str | None] = mapped_column(default=None)
    suffix: Mapped[str | None] = mapped_column(default=None)
    seed: Mapped[int]
    method: Mapped[str] = mapped_column(String(32))
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    grader: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    details: Mapped[dict[str, Any] | None] = mapped_column("job_metadata", JSON, default=None)
    integrations: Mapped[list[Any] | None] = mapped_column(JSON, default=None)
    status: Mapped[str] = mapped_column(String(32), default="validating_files", index=True)
    wanted: Mapped[str] = mapped_column(String(16), default="run")
    owner: Mapped[str | None] = mapped_column(String(32), default=None)
    request: Mapped[str] = mapped_column(String(64), index=True)
    finished_at: Mapped[int | None] = mapped_column(default=None)
    estimated_finish: Mapped[int | None] = mapped_column(default=None)
    fine_tuned_model: Mapped[str | None] = mapped_column(default=None)
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger, default=None)
    result_file: Mapped[str | None] = mapped_column(default=None)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)


class JobEvent(TableRow, Tables):
    """Something that happened in a job."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    level: Mapped[str] = mapped_column(String(8), default="info")
    message: Mapped[str]
    type: Mapped[str] = mapped_column(String(16), default="message")
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)


class TunedModel(TableRow, Tables):
    """A model that a job made: its result, or a checkpoint. `folder`: where it is, in the folder of all jobs."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(unique=True)
    is_checkpoint: Mapped[bool] = mapped_column(default=False)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    folder: Mapped[str]
    step: Mapped[int | None] = mapped_column(default=None)
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)


class ApiKey(TableRow, Tables):
    """A key, by its hash (`server.keys`)."""

    __tablename__ = "api_keys"

    name: Mapped[str]
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    per_minute: Mapped[int | None] = mapped_column(default=None)
    revoked_at: Mapped[int | None] = mapped_column(default=None)


class State:
    """The tables of a server. `url`: of a database; by default a file in the folder of the server."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.engine = create_engine(url or f"sqlite:///{folder / 'state.sqlite'}")
        is_sqlite = self.engine.dialect.name == "sqlite"
        if is_sqlite:
            event.listen(self.engine, "connect", _configure_sqlite)
        try:
            Tables.metadata.create_all(self.engine)
            _add_new_columns(self.engine)
        except Exception as error:  # the drivers of databases have their own errors
            what = f"the state cannot be opened: {str(error).splitlines()[0]}"
            raise bottega.DiskError(what, where=self.engine.url.render_as_string(), fix="check --database") from None

        # A connection of its own: SQLite tells each what the others have changed.
        self._watch, self._watching = self.engine.raw_connection() if is_sqlite else None, threading.Lock()

    def version(self) -> object:
        """A value that stays the same only while nobody changes the tables.

        To ask for it costs a hundredth of a query. With a database that cannot tell, every value is a new one.
        """
        if self._watch is None:
            return object()
        with self._watching:
            return self._watch.execute("PRAGMA data_version").fetchone()[0]

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Inside, rows are read and changed; all changes are kept at its end, or none after an error."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def get(self, table: type[AnyTableRow], id: str) -> AnyTableRow | None:
        """The row with an id."""
        with self.transaction() as session:
            return find(session, table, id)

    def add(self, row: TableRow) -> None:
        """Keep a new row."""
        with self.transaction() as session:
            session.add(row)

    def page(
        self,
        table: type[AnyTableRow],
        *,
        limit: int,
        after: str | None,
        ascending: bool = False,
        where: Sequence[Any] = (),
        **equal: Any,
    ) -> tuple[list[AnyTableRow], bool]:
        """(rows behind one, newest first, whether there are more); raises a KeyError if there is no row `after`."""
        with self.transaction() as session:
            query = select(table).filter_by(**{name: value for name, value in equal.items() if value is not None})
            query = query.where(*where)
            if after is not None:
                last = find(session, table, after)
                if last is None:
                    raise KeyError(after)
                query = query.where(table.number > last.number if ascending else table.number < last.number)
            query = query.order_by(table.number if ascending else table.number.desc())
            rows = list(session.scalars(query.limit(limit + 1)))
        return rows[:limit], len(rows) > limit

    def close(self) -> None:
        """Close all connections."""
        if self._watch is not None:
            self._watch.close()
        self.engine.dispose()


def find(session: Session, table: type[AnyTableRow], id: str) -> AnyTableRow | None:
    """The row with an id, inside a transaction."""
    found: AnyTableRow | None = session.scalars(select(table).filter_by(id=id)).one_or_none()
    return found


def digests_in_use(session: Session) -> set[str]:
    """The checksums of all files and parts."""
    return {*session.scalars(select(StoredFile.digest)), *session.scalars(select(UploadPart.digest))}


def is_in_use(session: Session, digest: str) -> bool:
    """Whether a file or a part has this checksum."""
    return any(session.scalars(select(table).filter_by(digest=digest)).first() for table in (StoredFile, UploadPart))


def _add_new_columns(engine: Engine) -> None:
    """Give the tables of an earlier version the columns that have come since, all of which may be empty."""
    for table in Tables.metadata.sorted_tables:
        for column in table.columns:
            if _has_column(engine, table.name, column.name):
                continue
            kind = column.type.compile(engine.dialect)
            try:
                with engine.begin() as connection:
                    connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"))
            except DBAPIError:
                # Another server may have added it just now.
                if not _has_column(engine, table.name, column.name):
                    raise


def _has_column(engine: Engine, table: str, column: str) -> bool:
    return any(known["name"] == column for known in inspect(engine).get_columns(table))


def _configure_sqlite(connection: Any, _: Any) -> None:
    """Readers do not wait for a writer (WAL), and a writer waits for another instead of failing."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
