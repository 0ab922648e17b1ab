"""The training jobs of a station: begin, watch, cancel, and take in the model that results."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, func, insert, select, update

from cflow_ad.errors import CflowError, StationError, TrainingError
from cflow_ad.settings import Settings
from cflow_ad.station.database import now
from cflow_ad.station.locking import is_free
from cflow_ad.station.schema import jobs
from cflow_ad.station.training.child import LOG, describe_failure
from cflow_ad.station.training.parts import link_good_parts, list_marked_parts, summarise

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_LOG = logging.getLogger(__name__)
_EVERY = 0.5
_ATTEMPTS = 3
_GRACE = 15.0  # seconds that a cancelled job has to end by itself


class Jobs:
    """The jobs.

    Args:
        station: whose they are.
    """

    def __init__(self, station: Station) -> None:
        self._station = station
        self._folder = station.config.data / "jobs"
        self._stopping = threading.Event()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._seen: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._watch, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin to watch; jobs of an earlier start are found again."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching; the jobs go on."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def begin(
        self,
        model: str,
        author: str,
        *,
        images: Path | None = None,
        history: dict[str, Any] | None = None,
        preset: str = "default",
        settings: dict[str, Any] | None = None,
        max_seconds: float | None = None,
    ) -> dict[str, Any]:
        """Begin a training job.

        Args:
            model: the name that the new version gets.
            author: who begins it.
            images: a folder of good images; else
            history: `since`, `until` and `limit`: parts of the record that are marked good.
            preset: settings to start from.
            settings: others, by name.
            max_seconds: the longest that training may take.

        Returns:
            The job, as `get` gives it.

        Raises:
            SettingsError: a setting has a value that it cannot have.
            StationError: another job is not done yet, or there are too few images.
        """
        Settings.preset(preset, **(settings or {}))
        number = str(uuid.uuid4())
        folder = self._folder / number
        folder.mkdir(parents=True)
        registry = self._station.registry
        old = registry.active(model) if model in registry.names() else None
        try:
            if images is None:
                images = folder / "images"
                link_good_parts(self._station, model, images, **(history or {}))
            values = {
                "images": str(images),
                "preset": preset,
                "settings": settings or {},
                "max_seconds": max_seconds,
                "device": self._station.config.device,
                "old": old and {"file": str(old.path), "threshold": old.threshold},
                "parts": list_marked_parts(self._station, old) if old else [],
            }
            (folder / "job.json").write_text(json.dumps(values), encoding="utf-8")
            row = {
                "id": number,
                "kind": "train",
                "model": model,
                "state": "running",
                "author": author,
                "created": now(),
                "options": {k: values[k] for k in ("images", "preset", "settings", "max_seconds")},
                "attempts": 0,  # `_look` starts the process
            }
            self._station.database.write(lambda connection: _insert_alone(connection, row))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self.get(number)

    def all(self) -> list[dict[str, Any]]:
        """List the jobs, newest first."""
        query = select(jobs).order_by(jobs.c.created.desc()).limit(100)
        with self._station.database.engine.connect() as connection:
            return [self._describe(dict(row._mapping)) for row in connection.execute(query)]

    def get(self, number: str) -> dict[str, Any]:
        """Return a job.

        Raises:
            KeyError: there is no such job.
        """
        with self._station.database.engine.connect() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == number)).one_or_none()
        if row is None:
            raise KeyError(number)
        return self._describe(dict(row._mapping))

    def cancel(self, number: str) -> dict[str, Any]:
        """Ask a job to end; one that does not is ended.

        Raises:
            KeyError: there is no such job.
            StationError: it is not running.
        """
        if self.get(number)["state"] != "running":
            raise StationError("the training is over already", code="training.over")
        (self._folder / number / "cancel").touch()
        return self.get(number)

    def comparison(self, number: str) -> dict[str, Any]:
        """Compare a job's model with the one in use then, on parts that people have marked.

        Raises:
            KeyError: there is no such job, or it has no result.
        """
        job = self.get(number)
        result = _read(self._folder / number / "result.json")
        if job["state"] != "done" or result is None:
            raise KeyError(number)
        return {
            "model": job["model"],
            "version": job["version"],
            "threshold": result["threshold"],
            "notes": result["notes"],
            **summarise(result["parts"]),
        }

    def _describe(self, row: dict[str, Any]) -> dict[str, Any]:
        progress = _read(self._folder / row["id"] / "progress.json")
        row["progress"] = progress if row["state"] == "running" else None
        row.pop("attempts")
        row |= row.pop("failure") or {}
        return row

    def _spawn(self, number: str) -> None:
        folder = self._folder / number
        with (folder / LOG).open("ab") as log:
            self._children[number] = subprocess.Popen(
                [sys.executable, "-m", "cflow_ad.station.training.child", str(folder.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _watch(self) -> None:
        while not self._stopping.wait(_EVERY):
            try:
                self._look()
            except Exception:
                _LOG.exception("the training jobs cannot be watched now")

    def _look(self) -> None:
        with self._station.database.engine.connect() as connection:
            rows = connection.execute(select(jobs).where(jobs.c.state == "running")).all()
        for row in rows:
            folder = self._folder / row.id
            child = self._children.get(row.id)
            if child is not None and child.poll() is not None:
                child = None
            if child is not None or not is_free(folder / "lock"):
                self._publish_progress(row.id)
                if _age(folder / "cancel") > _GRACE:
                    child.terminate() if child is not None else _end(folder / "lock")
                continue
            result = _read(folder / "result.json")
            if result is None and (folder / "cancel").exists():
                result = {"state": "cancelled"}
            if result is None and row.attempts >= _ATTEMPTS:
                text = f"the process ended without a word; see {folder / LOG}"
                error = TrainingError(text, code="training.silent", file=str(folder / LOG))
                result = describe_failure(error, folder)
            if result is not None:
                self._finish(row, result)
                continue
            again = update(jobs).where(jobs.c.id == row.id).values(attempts=row.attempts + 1)
            self._station.database.write(lambda c, again=again: c.execute(again))  # type: ignore[misc]
            self._spawn(row.id)

    def _finish(self, row: Row[Any], result: dict[str, Any]) -> None:
        number, folder = row.id, self._folder / row.id
        version = None
        if result["state"] == "done":
            registry = self._station.registry
            try:
                version = registry.add(
                    row.model,
                    folder / "model.safetensors",
                    origin=f"training {number}",
                    author=row.author,
                    activate=row.model not in registry.names(),
                )
            except CflowError as error:
                result = describe_failure(error, folder)
        change = (
            update(jobs)
            .where(jobs.c.id == number)
            .values(
                state=result["state"],
                error=result.get("error"),
                failure={k: result[k] for k in ("code", "values") if k in result} or None,
                version=version,
                finished=now(),
            )
        )
        self._station.database.write(lambda connection: connection.execute(change))
        self._children.pop(number, None)
        self._seen.pop(number, None)
        for part in ("work", "images"):
            shutil.rmtree(folder / part, ignore_errors=True)
        if version is not None:  # the registry has its own copy
            (folder / "model.safetensors").unlink(missing_ok=True)
        self._station.broadcast.send("job", self.get(number))

    def _publish_progress(self, number: str) -> None:
        progress = _read(self._folder / number / "progress.json")
        if progress is not None and progress != self._seen.get(number):
            self._seen[number] = progress
            self._station.broadcast.send("job", self.get(number))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _insert_alone(connection: Connection, row: dict[str, Any]) -> None:
    """Add a job, unless another is running."""
    if connection.scalar(select(func.count()).where(jobs.c.state == "running")):
        raise StationError(
            "another training is not done yet; wait for it, or cancel it", code="training.another"
        )
    connection.execute(insert(jobs).values(**row))


def _age(file: Path) -> float:
    """Seconds since a file was written; 0 where there is none."""
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return 0.0


def _end(lock: Path) -> None:
    """Kill the process that holds a lock."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(lock.read_text(encoding="utf-8")), signal.SIGTERM)
