"""The station: models, record, pictures and scorers together."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from cflow_ad.errors import CflowError
from cflow_ad.station.auth import Auth
from cflow_ad.station.background import Part, build_sinks, build_sources
from cflow_ad.station.broadcast import Broadcast
from cflow_ad.station.config import StationConfig
from cflow_ad.station.database import Database, now
from cflow_ad.station.describing import describe_model
from cflow_ad.station.drift.monitor import DriftMonitor
from cflow_ad.station.follower import Follower
from cflow_ad.station.from_store import StoreFollower
from cflow_ad.station.inspector import Inspector
from cflow_ad.station.locking import Lock, read_secret
from cflow_ad.station.marks import Marks
from cflow_ad.station.metrics import Metrics
from cflow_ad.station.pictures import PictureStore
from cflow_ad.station.records import Records
from cflow_ad.station.refusal import say
from cflow_ad.station.registry import Registry
from cflow_ad.station.schema import events, states
from cflow_ad.station.scoring import ScorerPool
from cflow_ad.station.training.jobs import Jobs

_LOG = logging.getLogger(__name__)
_CLEAN_EVERY = 60.0
_STUCK = 60.0  # seconds after which a scorer that gives no result counts as stuck


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
                _LOG.warning("%s", note)
                self.add_event("model", say(note))
            self.scorers = ScorerPool(
                workers=config.workers,
                limit=config.limits.queue,
                max_pixels=config.limits.pixels,
                gather=config.limits.gather_ms / 1000,
            )
            opened.callback(self.scorers.close)
            self.inspector = Inspector(self)
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

    def rule(self, model: str) -> dict[str, int] | None:
        """Return the rule of a model, such as 7 anomalous of 10."""
        return self._rules.get(model)

    def set_rule(self, model: str, rule: dict[str, int] | None) -> None:
        """Set the rule of a model, or none."""
        rules = {**self._rules, model: rule}
        self.save_state("rules", rules)
        self._rules = rules

    def picture_path(self, number: str) -> Path | None:
        """Return where the picture of an inspection lies, if it is kept."""
        file = self.records.picture_file(number)
        path = None if file is None else self.pictures.path(file)
        return path if path is not None and path.is_file() else None

    def add_event(self, kind: str, data: dict[str, Any], model: str | None = None) -> None:
        """Store an event that a person should see, and send it to all pages that are open."""
        row = {"kind": kind, "time": now(), "model": model, "data": json.loads(json.dumps(data))}

        def add(connection: Connection) -> int:
            made = connection.execute(insert(events).values(**row)).inserted_primary_key
            assert made is not None
            return int(made[0])

        with contextlib.suppress(CflowError):
            number = self.database.write(add)
            self.broadcast.send("event", {"id": number, "acknowledged": None, **row})

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

    def _clean(self) -> None:
        while not self._stopping.wait(_CLEAN_EVERY):
            try:
                if self._store is not None:
                    for name in self._store.follow():
                        self.broadcast.send("model", describe_model(self, name))
            except Exception as error:  # of the store, the disk or the database
                _LOG.warning("the model store cannot be followed: %s", error)
            try:
                self.pictures.clean(self.database)
            except Exception:
                _LOG.exception("pictures cannot be deleted")
