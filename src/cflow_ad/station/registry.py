"""The models of a station: their versions, which one is in use, and their thresholds."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from cflow_ad.data.decoding.raster import Reading
from cflow_ad.errors import CflowError, StationError
from cflow_ad.fleet.serving import DEFAULT_GIB, DetectorCache
from cflow_ad.runtime.opening import is_exported, open_detector
from cflow_ad.scoring.base import BaseDetector
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.settings import Settings
from cflow_ad.station import chain
from cflow_ad.station.database import Database, now
from cflow_ad.station.model_files import hash_model, keep_copy, name_of
from cflow_ad.station.schema import model_changes, models, thresholds
from cflow_ad.station.version import Version

AS_CALIBRATED, GIVEN_AS, PROMOTED_IN = "as calibrated", "given as ", "promoted in "
"""Reasons of changes that nobody gave."""


class Registry:
    """The models of a station.

    Args:
        folder: where model files are kept.
        database: of the station.
        key: seals changes.
        device: where models run.
        memory: GiB of detectors to keep in memory; the others are loaded when they are needed.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        key: bytes,
        device: str | None,
        memory: float = DEFAULT_GIB,
    ) -> None:
        self._folder = folder
        self._database = database
        self._key = key
        self._device = device
        self._memory = memory * 2**30
        self._lock = threading.RLock()
        self._active: dict[str, Version] = {}
        self._readings: dict[int, Reading] = {}
        self._detectors: DetectorCache[int] = DetectorCache(
            lambda number: self._load(self.version(number).path), memory
        )

    def open(self, files: Sequence[Path]) -> list[CflowError]:
        """Take in model files, and load the models in use, as many as fit into memory.

        Returns:
            An error for each file that cannot be used, though an earlier version of the model can.

        Raises:
            CflowError: a file cannot be used, and there is no earlier version; or there is no model
                at all.
        """
        notes: list[CflowError] = []
        names = [name_of(path) for path in files]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise StationError(f"two models are called {twice[0]}; rename a file")
        for path, name in zip(files, names, strict=True):
            try:
                self.add(name, path, origin=str(path), author="serve", activate=True)
            except CflowError as error:
                if self.number_in_use(name) is None:
                    raise
                text = f"{error}; the earlier version of {name} stays in use"
                notes.append(StationError(text, code="model.earlier", model=name))
        for name in self._names():
            self.reload(name)
            if self._detectors.used < self._memory:
                self.detector(self._active[name].id)
        if not self._active:
            raise StationError("there is no model; name a model file: cflow-ad serve MODEL")
        return notes

    def add(
        self, name: str, path: Path, *, origin: str, author: str, activate: bool = False
    ) -> int:
        """Take in a model file as a version of a model, unless it is one already.

        Args:
            name: of the model.
            path: the file, trained or exported.
            origin: where it comes from.
            author: who brings it.
            activate: put it to use, if it is new.

        Returns:
            The version's number.

        Raises:
            CflowError: the file cannot be used.
        """
        sha256 = hash_model(path)
        with self._database.engine.connect() as connection:
            known = connection.scalar(
                select(models.c.id).where(models.c.name == name, models.c.sha256 == sha256)
            )
        if known is not None:
            return int(known)
        copy = keep_copy(path, sha256, self._folder)
        detector = self._load(copy)
        row = {
            "name": name,
            "sha256": sha256,
            "file": copy.relative_to(self._folder).as_posix(),
            "origin": origin,
            "created": now(),
            "threshold": detector.threshold,
            "map_threshold": detector.calibration.map_threshold,
            "calibration": detector.calibration.to_dict(),
            "n_scores": detector.calibration.n_images,
            "about": _about(detector.info()),
        }

        def write(connection: Connection) -> int:
            made = connection.execute(insert(models).values(**row)).inserted_primary_key
            assert made is not None
            number = int(made[0])
            self._append_threshold(connection, number, detector.threshold, author, AS_CALIBRATED)
            if activate:
                self._append_change(connection, name, number, author, f"{GIVEN_AS}{origin}")
            return number

        number = self._database.write(write)
        self._detectors.put(number, detector)
        if activate:
            self.reload(name)
        return number

    def active(self, name: str) -> Version:
        """Return the version of a model that is in use.

        Raises:
            KeyError: there is no such model.
        """
        return self._active[name]

    def names(self) -> list[str]:
        """List the models."""
        return sorted(self._active)

    def version(self, number: int) -> Version:
        """Return any version, with its threshold of the present.

        Raises:
            KeyError: there is no such version.
        """
        with self._database.engine.connect() as connection:
            row = connection.execute(select(models).where(models.c.id == number)).one_or_none()
            if row is None:
                raise KeyError(number)
            at = connection.execute(
                select(thresholds)
                .where(thresholds.c.version == number)
                .order_by(thresholds.c.id.desc())
                .limit(1)
            ).one()
        return self._version(row, at)

    def detector(self, number: int) -> BaseDetector:
        """Return the detector of a version, loading it if it is not in memory.

        Raises:
            CflowError: its file cannot be used.
        """
        return self._detectors.get(number)

    def reading(self, number: int) -> Reading:
        """Return how a version reads images, without loading it.

        Raises:
            KeyError: there is no such version.
        """
        found = self._readings.get(number)
        if found is None:
            with self._database.engine.connect() as connection:
                about = connection.scalar(select(models.c.about).where(models.c.id == number))
            if about is None:
                raise KeyError(number)
            found = self._readings[number] = Settings.from_dict(about["settings"]).reading
        return found

    def set_threshold(self, name: str, value: float, author: str, reason: str) -> Version:
        """Change the threshold of the version in use; returns it with the new one.

        Raises:
            KeyError: there is no such model.
            StationError: the value is not a finite number.
        """
        if not math.isfinite(value):
            raise StationError(
                f"threshold {value}: it must be a finite number", code="invalid", field="value"
            )
        version = self._active[name]
        self._database.write(
            lambda connection: self._append_threshold(connection, version.id, value, author, reason)
        )
        return self.reload(name)

    def promote(self, name: str, number: int, author: str, reason: str) -> Version:
        """Put another version to use: a new one, or an earlier one again.

        Raises:
            KeyError: there is no such version of this model.
            CflowError: its file cannot be used.
        """
        if self.version(number).name != name:
            raise KeyError(number)
        self.detector(number)  # so that a model that cannot be loaded is never put to use
        self._database.write(
            lambda connection: self._append_change(connection, name, number, author, reason)
        )
        return self.reload(name)

    def reload(self, name: str) -> Version:
        """Read from the database what is in use, and with which threshold."""
        with self._lock:
            number = self.number_in_use(name)
            if number is None:
                raise KeyError(name)
            found = self._active[name] = self.version(number)
            return found

    def _names(self) -> list[str]:
        with self._database.engine.connect() as connection:
            return list(connection.scalars(select(model_changes.c.name).distinct()))

    def number_in_use(self, name: str) -> int | None:
        """Return the number of a model's version in use; None where there is no such model."""
        last = select(func.max(model_changes.c.id)).where(model_changes.c.name == name)
        with self._database.engine.connect() as connection:
            return connection.scalar(
                select(model_changes.c.version).where(model_changes.c.id == last.scalar_subquery())
            )

    def _version(self, row: Row[Any], at: Row[Any]) -> Version:
        return Version(
            id=row.id,
            name=row.name,
            sha256=row.sha256,
            path=self._folder / row.file,
            threshold_id=at.id,
            threshold=at.value,
            map_threshold=row.map_threshold,
            calibration=Calibration.from_dict(row.calibration),
        )

    def _append_threshold(
        self, connection: Connection, number: int, value: float, author: str, reason: str
    ) -> None:
        row = {"version": number, "value": value, "author": author, "reason": reason, "time": now()}
        chain.append(connection, thresholds, [row], self._key)

    def _append_change(
        self, connection: Connection, name: str, number: int, author: str, reason: str
    ) -> None:
        row = {"name": name, "version": number, "author": author, "reason": reason, "time": now()}
        chain.append(connection, model_changes, [row], self._key)

    def _load(self, path: Path) -> BaseDetector:
        if is_exported(path) and self._device in (None, "cpu"):
            from cflow_ad.runtime.detector import Detector

            return Detector.load(path, device=self._device, threads=1)
        return open_detector(path, device=self._device)


def _about(info: dict[str, Any]) -> dict[str, Any]:
    kept = {key: info[key] for key in ("settings", "training", "encoder", "export") if key in info}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    plain.get("training", {}).pop("screening", None)
    return plain
