"""The station: models, record, pictures and scorers together."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import secrets
import threading
import time
import uuid
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from sqlalchemy import Connection, delete, insert, select

from cflow_ad.data.images import read_image
from cflow_ad.errors import CflowError
from cflow_ad.scoring.prediction import Prediction
from cflow_ad.station.auth import Auth
from cflow_ad.station.background import Part, build_sinks, build_sources
from cflow_ad.station.broadcast import Broadcast
from cflow_ad.station.config import StationConfig
from cflow_ad.station.database import Database, now
from cflow_ad.station.drift.monitor import DriftMonitor
from cflow_ad.station.follower import Follower
from cflow_ad.station.from_store import StoreFollower
from cflow_ad.station.locking import Lock, read_secret
from cflow_ad.station.marks import Marks
from cflow_ad.station.metrics import Metrics
from cflow_ad.station.pictures import PictureStore
from cflow_ad.station.records import Filter, Records, as_item
from cflow_ad.station.registry import Registry, Version
from cflow_ad.station.schema import events, states
from cflow_ad.station.scoring import QueueFullError, ScorerPool
from cflow_ad.station.training.jobs import Jobs

_LOG = logging.getLogger(__name__)
_CLEAN_EVERY = 60.0
_STUCK = 60.0  # seconds after which a scorer that gives no result counts as stuck


class Judged(NamedTuple):
    """A picture that was scored, and whose record is on its way."""

    prediction: Prediction
    written: Future[dict[str, Any]]
    """The row as stored: only then may the verdict be given."""
    began: float
    """When it came, on the monotonic clock."""
    has_picture: bool
    """Whether its picture is kept."""
    pixels: NDArray[Any]
    """Of the picture, shape `(H, W, 3)`, 0 to 255."""


class Station:
    """A station that is ready to inspect.

    Args:
        config: its settings.

    Raises:
        CflowError: the folder, the database or a model cannot be used.
    """

    def __init__(self, config: StationConfig) -> None:
        self.config = config
        self._stopping = threading.Event()
        with contextlib.ExitStack() as opened:
            lock = Lock(config.data)
            opened.callback(lock.release)
            self.secret = read_secret(config.data / "station.key")
            self.database = Database(config.database_url)
            opened.callback(self.database.close)
            self.broadcast = Broadcast()
            self.auth = Auth(self.database, self.secret)
            self.registry = Registry(
                config.data / "models", self.database, self.secret, config.device, config.memory
            )
            self._store = None if config.store is None else StoreFollower(config, self.registry)
            if self._store is not None:
                self._store.follow()
            self.pictures = PictureStore(config.data / "pictures", config.retention)
            self.pictures.sweep(self.database)
            messages = [name for name in ("mqtt", "webhook", "csv") if getattr(config, name)]
            self.records = Records(self.database, self.secret, messages)
            self.marks = Marks(self.database, self.secret)
            for note in self.registry.open(config.models):
                _LOG.warning(note)
                self.add_event("model", {"text": note})
            self.scorers = ScorerPool(
                workers=config.workers,
                limit=config.limits.queue,
                max_pixels=config.limits.pixels,
                gather=config.limits.gather_ms / 1000,
            )
            opened.callback(self.scorers.close)
            self._rules: dict[str, Any] = self.load_state("rules") or {}
            self.metrics = Metrics(self)
            self.follower = Follower(self)
            self.drift = DriftMonitor(self)
            self.follower.listen(self.drift.update)
            self.jobs = Jobs(self)
            self._sinks = build_sinks(self)
            self._folders, self.cameras = build_sources(self)
            self._cleaner = threading.Thread(target=self._clean, name="cleaner", daemon=True)
            self._opened = opened.pop_all()

    @property
    def writer(self) -> Database:
        """What writes to the database: `submit` and `write`."""
        return self.database

    def start(self) -> None:
        """Begin to follow the record, and to do what is done in the background."""
        self.drift.restore()
        self.follower.start()
        self._cleaner.start()
        for part in [*self._sinks, self.jobs, *self._folders, *self.cameras.values()]:
            part.start()

    def close(self) -> None:
        """Finish what was begun, write it, and stop."""
        self.broadcast.close()
        sources: list[Part] = [*self._folders, *self.cameras.values()]
        for source in sources:
            source.close()
        self._stopping.set()
        self.scorers.close()
        self.follower.close()
        with contextlib.suppress(CflowError):  # else it is read from the record again
            self.drift.save()
        for part in [*self._sinks, self.jobs]:
            part.close()
        if self._cleaner.is_alive():
            self._cleaner.join(timeout=30)
        self._opened.close()

    def problem(self) -> str | None:
        """Say why the station cannot inspect at present; None where it can."""
        if self._stopping.is_set():
            return "the station is stopping"
        if not self.database.is_writing:
            return f"the database cannot be written to ({self.database.last_error})"
        if self.scorers.longest_wait > _STUCK:
            return "the scorer gives no result"
        return None

    def inspect(
        self,
        data: bytes,
        model: str,
        *,
        source: str = "api",
        name: str = "the image",
        request: str | None = None,
    ) -> Future[Judged]:
        """Score a picture, and have its record written.

        Args:
            data: an image file.
            model: its name.
            source: where the picture comes from, for the record.
            name: of the picture, in errors.
            request: a client's own key of this inspection, which is done once only.

        Raises:
            KeyError: there is no such model.
            QueueFullError: too many wait.
        """
        version = self.registry.active(model)
        if self.database.waiting > 2 * self.scorers.limit:
            raise QueueFullError("many records wait to be written; try again soon")
        began = time.monotonic()
        return self.scorers.submit(self._judge, data, version, source, name, request, began)

    def _judge(
        self,
        data: bytes,
        version: Version,
        source: str,
        name: str,
        request: str | None,
        began: float,
    ) -> Judged:
        """Score in a thread of the pool, put the picture in its place, and hand over the record."""
        started = time.monotonic()
        path = self.pictures.receive(data)
        picture: dict[str, Any] | None = None
        try:
            detector = self.registry.detector(version.id)
            outcome = self.scorers.score(detector, path, name)
            prediction = dataclasses.replace(
                outcome.prediction,
                threshold=version.threshold,
                map_threshold=version.map_threshold,
            )
            audit = draw(self.config.audit_share)
            number = str(uuid.uuid4())
            row = {
                "id": number,
                "request": request,
                "time": now(),
                "station": self.config.name,
                "source": source,
                "version": version.id,
                "model": version.name,
                "sha256": version.sha256,
                "image_sha256": outcome.sha256,
                "width": outcome.pixels.shape[1],
                "height": outcome.pixels.shape[0],
                "score": prediction.score,
                "p_value": version.calibration.compute_p_value(prediction.score),
                "threshold_id": version.threshold_id,
                "threshold": prediction.threshold,
                "map_threshold": prediction.map_threshold,
                "is_anomalous": prediction.is_anomalous,
                "regions": [region.to_dict() for region in prediction.regions],
                "latency_ms": {
                    "queue": round(1000 * (started - began), 3),
                    "score": round(1000 * (time.monotonic() - started), 3),
                },
                "measures": outcome.measures,
                "audit": audit,
            }
            verdict = prediction.is_anomalous
            if self.pictures.wants(
                is_anomalous=verdict,
                score=prediction.score,
                threshold=prediction.threshold,
                audit=audit,
            ):
                picture = self.pictures.keep(path, number, longer=verdict or audit)
        finally:
            self.pictures.drop(path)
        tries = itertools.count()

        def write(connection: Connection) -> dict[str, Any]:
            return self.records.insert(
                connection, row, outcome.vector, picture, is_repeated=next(tries) > 0
            )

        def follow(stored: dict[str, Any]) -> None:
            if stored["id"] == number:
                odds = version.odds(stored["score"])
                self.follower.hand(as_item(stored, odds, has_picture=picture is not None))

        written = self.database.submit(write, follow)
        if picture is not None:
            kept = self.pictures.path(picture["file"])
            written.add_done_callback(
                lambda done: None if _is_stored(done, number) else self.pictures.drop(kept)
            )
        return Judged(prediction, written, began, picture is not None, outcome.pixels)

    def score_kept(self, number: str) -> Prediction:
        """Score the kept picture of an inspection again, with the model and threshold that judged
        it.

        Raises:
            KeyError: there is no such inspection, or its picture is not kept.
            QueueFullError: too many wait.
        """
        row, path = self.records.get(number), self.picture_path(number)
        if row is None or path is None:
            raise KeyError(number)
        detector = self.registry.detector(row["version"])
        outcome = self.scorers.submit(self.scorers.score, detector, path, is_extra=True).result()
        return dataclasses.replace(
            outcome.prediction, threshold=row["threshold"], map_threshold=row["map_threshold"]
        )

    def rule(self, model: str) -> dict[str, int] | None:
        """Return the rule of a model, such as 7 anomalous of 10."""
        return self._rules.get(model)

    def set_rule(self, model: str, rule: dict[str, int] | None) -> None:
        """Set the rule of a model, or none."""
        self._rules = {**self._rules, model: rule}
        self.save_state("rules", self._rules)

    def picture_path(self, number: str) -> Path | None:
        """Return where the picture of an inspection lies, if it is kept."""
        file = self.records.picture_file(number)
        path = None if file is None else self.pictures.path(file)
        return path if path is not None and path.is_file() else None

    def picture(self, number: str) -> bytes | None:
        """Return the picture of an inspection as it came, if it is kept."""
        path = self.picture_path(number)
        return None if path is None else path.read_bytes()

    def pixels(self, number: str) -> NDArray[Any] | None:
        """Return the picture of an inspection as its model reads it, `(H, W, 3)`, 0 to 255."""
        row, path = self.records.get(number), self.picture_path(number)
        if row is None or path is None:
            return None
        return read_image(path, self.registry.reading(row["version"]))

    def inspection(self, number: str) -> dict[str, Any] | None:
        """Return an inspection by its id."""
        return self.records.get(number)

    def history(
        self, *, limit: int = 50, before: int | None = None, **wanted: Any
    ) -> tuple[list[dict[str, Any]], int | None]:
        """List inspections, newest first; see `Records.page` and `Filter`."""
        return self.records.page(Filter(**wanted), limit=limit, before=before)

    def publish(self, kind: str, values: dict[str, Any]) -> None:
        """Send something to all pages that are open."""
        self.broadcast.send(kind, values)

    def add_event(self, kind: str, data: dict[str, Any], model: str | None = None) -> None:
        """Store an event that a person should see, and send it to all pages that are open."""
        row = {"kind": kind, "time": now(), "model": model, "data": json.loads(json.dumps(data))}

        def add(connection: Connection) -> int:
            made = connection.execute(insert(events).values(**row)).inserted_primary_key
            assert made is not None
            return int(made[0])

        with contextlib.suppress(CflowError):
            number = self.database.write(add)
            self.publish("event", {"id": number, "acknowledged": None, **row})

    def load_state(self, name: str) -> Any:
        """Return what was saved under a name; None where nothing was."""
        with self.database.engine.connect() as connection:
            return connection.scalar(select(states.c.value).where(states.c.name == name))

    def save_state(self, name: str, value: Any) -> None:
        """Save a plain value under a name."""

        def save(connection: Connection) -> None:
            connection.execute(delete(states).where(states.c.name == name))
            connection.execute(insert(states).values(name=name, value=value))

        self.database.write(save)

    def models(self) -> list[dict[str, Any]]:
        """Describe the models, as the API does."""
        from cflow_ad.station.describing import describe_model

        return [describe_model(self, name) for name in self.registry.names()]

    def _clean(self) -> None:
        while not self._stopping.wait(_CLEAN_EVERY):
            try:
                if self._store is not None:
                    self._store.follow()
            except CflowError as error:
                _LOG.warning("the model store cannot be followed: %s", error)
            try:
                self.pictures.clean(self.database)
            except Exception:
                _LOG.exception("pictures cannot be deleted")


def draw(share: float) -> bool:
    """Draw at random, with a probability that nothing of the part enters."""
    return secrets.randbelow(1_000_000) < 1_000_000 * share


def _is_stored(done: Future[dict[str, Any]], number: str) -> bool:
    """Whether a record was written, and not found to be a repeated one."""
    return done.exception() is None and done.result()["id"] == number
