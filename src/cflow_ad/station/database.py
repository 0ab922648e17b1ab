"""The connection to the database, and the one thread that writes to it.

Everything that waits to be written goes into one transaction, whose commit is what takes time. On
SQLite a commit is on the disk when it returns (`synchronous=FULL`): a power cut loses nothing that
was answered.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, create_engine, delete, event, insert, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from cflow_ad.errors import StationError, first_line, optional_library
from cflow_ad.station.schema import states

Result = TypeVar("Result")
Work = Callable[[Connection], Any]

_LOG = logging.getLogger(__name__)
_AT_ONCE = 256
_BUSY_MS = 5000
_PROBE_EVERY = 1.0
_PATIENCE = 10.0  # seconds for which the writer waits for a locked or absent database


def now() -> str:
    """Return the present time in UTC, as it is stored."""
    return as_stored(datetime.now(UTC))


def as_stored(at: datetime) -> str:
    """Return a time as it is stored: in UTC, with six digits of the second, so that the order of
    the texts is that of the times. One without a zone is UTC.
    """
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return f"{at.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


class _Item(NamedTuple):
    """A piece of work for the writer."""

    work: Work
    future: Future[Any]
    then: Callable[[Any], object] | None


class UnavailableError(StationError):
    """The database cannot be written to now: locked, away, or its disk is full."""


class Database:
    """A database that is ready to use.

    Args:
        url: as SQLAlchemy takes it.

    Raises:
        StationError: it cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            with optional_library():
                self.engine = _open(url)
            migrate(self.engine)
        except SQLAlchemyError as error:
            raise StationError(
                f"{_plain(url)}: the database cannot be opened ({_why(error)})"
            ) from error
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self.last_error: str | None = None
        """Why the last commit failed; None where it did not."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def is_writing(self) -> bool:
        """Whether the last commit went well, and the next can be tried."""
        return self._thread.is_alive() and not self._closed and self.last_error is None

    @property
    def waiting(self) -> int:
        """Pieces of work that wait to be written."""
        return self._queue.qsize()

    def submit(
        self,
        work: Callable[[Connection], Result],
        then: Callable[[Result], object] | None = None,
    ) -> Future[Result]:
        """Have the writer call `work` with a connection; done once its transaction is committed.

        Args:
            work: may be called again, after a rollback. Of what it raises nothing is written.
            then: called with its result after the commit, in the order of the commits, by the
                writer: it must be quick.
        """
        future: Future[Result] = Future()
        if self._closed:
            text = "the station is stopping"
            future.set_exception(UnavailableError(text, code="database.stopping"))
        else:
            self._queue.put(_Item(work, future, then))
        return future

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Submit, and wait.

        Raises:
            UnavailableError: the database cannot be written to now.
        """
        return self.submit(work).result()

    def close(self) -> None:
        """Write what waits, and stop."""
        self._closed = True
        self._queue.put(None)
        self._thread.join(timeout=60)
        self.engine.dispose()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            try:
                waiting = [self._queue.get(timeout=_PROBE_EVERY)]
            except queue.Empty:
                if self.last_error is not None:  # else nobody would see that it works again
                    self._commit([_Item(_probe, Future(), None)])
                continue
            while len(waiting) < _AT_ONCE:
                try:
                    waiting.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            stopping = None in waiting
            batch = [each for each in waiting if each is not None]
            if batch:
                self._commit(batch)

    def _commit(self, batch: list[_Item]) -> None:
        """Write a batch in one transaction; where one of it fails, each in its own."""
        try:
            results = self._transaction([item.work for item in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, UnavailableError):
                for each in batch:
                    self._commit([each])
                return
            for item in batch:
                item.future.set_exception(error)
            return
        for item, result in zip(batch, results, strict=True):
            item.future.set_result(result)
            if item.then is not None:
                item.then(result)

    def _transaction(self, work: list[Work]) -> list[Any]:
        until = time.monotonic() + _PATIENCE
        pause = 0.05
        while True:
            try:
                with self.engine.begin() as connection:
                    results = [each(connection) for each in work]
            except DBAPIError as error:
                if not (isinstance(error, OperationalError) or error.connection_invalidated):
                    raise
                self.last_error = _why(error)
                full = "full" in self.last_error or "No space" in self.last_error
                if full or self._closed or time.monotonic() > until:
                    raise UnavailableError(
                        f"the database cannot be written to now ({self.last_error})",
                        code="disk.full" if full else "database.write",
                    ) from error
                _LOG.warning("the database cannot be written to now: %s", self.last_error)
                time.sleep(pause)
                pause = min(1.0, 2 * pause)
            else:
                self.last_error = None
                return results


def _probe(connection: Connection) -> None:
    """Write something, to see whether that works."""
    connection.execute(delete(states).where(states.c.name == "probe"))
    connection.execute(insert(states).values(name="probe", value=now()))


def migrate(engine: Engine) -> None:
    """Bring the tables to the form that this version needs."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _open(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=16)
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=8,
        max_overflow=16,
        connect_args={"timeout": _BUSY_MS / 1000},
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, as SQLAlchemy advises
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={_BUSY_MS}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.execute(text("BEGIN"))

    return engine


def _why(error: Exception) -> str:
    return first_line(Exception(str(getattr(error, "orig", None) or error)))


def _plain(url: str) -> str:
    from sqlalchemy import make_url

    return make_url(url).render_as_string(hide_password=True)
