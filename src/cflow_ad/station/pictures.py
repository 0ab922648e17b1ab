"""The pictures that are kept, and for how long. A record stays when its picture is deleted."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select

from cflow_ad.station.config import Retention
from cflow_ad.station.database import Database
from cflow_ad.station.schema import pictures

_LOG = logging.getLogger(__name__)
_DAY = 86400.0
_GIGABYTE = 1e9
_AT_ONCE = 500
_KINDS = (
    (b"\x89PNG", ".png", "image/png"),
    (b"\xff\xd8\xff", ".jpg", "image/jpeg"),
    (b"RIFF", ".webp", "image/webp"),
    (b"BM", ".bmp", "image/bmp"),
    (b"P", ".pnm", "image/x-portable-anymap"),
    (b"", ".tif", "image/tiff"),
)
"""How the files of each format begin, their suffix, and their media type."""


def media_type(path: Path) -> str:
    """Return the media type of a kept picture."""
    return next(kind for _, suffix, kind in _KINDS if path.suffix == suffix)


def is_drawn(share: float) -> bool:
    """Draw at random, with a probability that nothing of the part enters."""
    return secrets.randbelow(1_000_000) < 1_000_000 * share


class PictureStore:
    """A folder of pictures, by day.

    Args:
        folder: of the pictures.
        policy: which are kept.
    """

    def __init__(self, folder: Path, policy: Retention) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.policy = policy

    def drop(self, path: Path) -> None:
        """Delete a picture."""
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def wants(self, *, is_anomalous: bool, score: float, threshold: float, audit: bool) -> bool:
        """Return whether the policy keeps a picture."""
        if self.policy.keep == "all" or audit:
            return True
        if self.policy.keep == "anomalous" and (
            is_anomalous or abs(score - threshold) <= self.policy.near * abs(threshold)
        ):
            return True
        return is_drawn(self.policy.share)

    def keep(self, data: bytes, number: str, *, longer: bool) -> dict[str, Any]:
        """Write a picture, which is on the disk when this returns.

        Args:
            data: the file.
            number: the inspection's id.
            longer: keep it as long as an anomalous one.

        Returns:
            The row of the table of pictures, without its key.
        """
        day = self.folder / time.strftime("%Y-%m-%d", time.gmtime())
        day.mkdir(parents=True, exist_ok=True)
        suffix = next(suffix for magic, suffix, _ in _KINDS if data.startswith(magic))
        path = day / f"{number}{suffix}"
        try:
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            self.drop(path)
            raise
        days = self.policy.anomalous_days if longer else self.policy.days
        return {
            "file": path.relative_to(self.folder).as_posix(),
            "bytes": len(data),
            "expires": time.time() + days * _DAY,
        }

    def sweep(self, database: Database) -> None:
        """Delete pictures of the last days that no record has: of a station that was killed before
        it wrote the record, and answered nobody.
        """
        for day in sorted(self.folder.glob("????-??-??"))[-2:]:
            files = {f"{day.name}/{path.name}" for path in day.iterdir()}
            with database.engine.connect() as connection:
                like = pictures.c.file.like(f"{day.name}/%")
                files -= set(connection.scalars(select(pictures.c.file).where(like)))
            for file in files:
                self.drop(self.path(file))

    def path(self, file: str) -> Path:
        """Return where a kept picture lies."""
        return self.folder / file

    def clean(self, database: Database) -> int:
        """Delete pictures whose time is over, then the oldest while there are too many bytes or
        the disk is too full; returns how many.
        """
        done = 0
        while rows := self._due(database):
            for row in rows:
                self.drop(self.path(row[1]))
            numbers = [row[0] for row in rows]
            gone = delete(pictures).where(pictures.c.seq.in_(numbers))
            database.write(lambda connection, gone=gone: connection.execute(gone))  # type: ignore[misc]
            done += len(rows)
        if done:
            _LOG.info("%d pictures deleted, as the policy says", done)
        for day in sorted(self.folder.glob("????-??-??"))[:-1]:  # `keep` may be at the last one
            with contextlib.suppress(OSError):
                day.rmdir()  # only an empty one goes
        return done

    def _due(self, database: Database) -> list[tuple[int, str]]:
        with database.engine.connect() as connection:
            over = connection.execute(
                select(pictures.c.seq, pictures.c.file)
                .where(pictures.c.expires < time.time())
                .limit(_AT_ONCE)
            ).all()
            if over:
                return [(row.seq, row.file) for row in over]
            total = connection.scalar(select(func.sum(pictures.c.bytes))) or 0
            excess = max(
                total - self.policy.gigabytes * _GIGABYTE,
                self.policy.free_gigabytes * _GIGABYTE - shutil.disk_usage(self.folder).free,
            )
            found: list[tuple[int, str]] = []
            if excess <= 0:
                return found
            oldest = connection.execute(select(pictures).order_by(pictures.c.seq).limit(_AT_ONCE))
            for row in oldest:
                found.append((row.seq, row.file))
                excess -= row.bytes
                if excess <= 0:
                    break
            return found
