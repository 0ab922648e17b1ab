"""The drift tests of a station: one for each version of a model, kept over restarts."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cflow_ad.errors import DataError
from cflow_ad.station.drift.exchangeability import Alarm, ExchangeabilityTest

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

RATE = 0.01
"""The probability that a version's test ever raises a false alarm, until it is restarted."""

_SAVE_EVERY = 100  # parts; what came after the last save is read from the record again
_READ = 500  # rows of the record read at once
_RESTARTS = 20  # restarts that are remembered


class DriftMonitor:
    """Tests all records of a station, in their order.

    Args:
        station: whose record it is.
    """

    def __init__(self, station: Station) -> None:
        self._station = station
        self._watched: dict[int, _Watched] = {}
        self._seq = 0
        self._unsaved = 0
        self._lock = threading.RLock()

    def restore(self) -> None:
        """Read the saved state, and test the parts that were recorded after it."""
        with self._lock:
            saved = self._station.load_state("drift") or {"seq": 0, "versions": []}
            for version in saved["versions"]:
                # A state of an earlier release may watch other measures: a new test begins.
                with contextlib.suppress(DataError):
                    state = self._station.load_state(f"drift {version}")
                    self._watched[version] = _Watched.from_dict(state)
            self._seq = saved["seq"]
            while rows := self._station.records.after(self._seq, _READ):
                for row in rows:
                    self.update(row)

    def update(self, record: Mapping[str, Any]) -> None:
        """Test the next part of the record; an alarm becomes an event of the station.

        Args:
            record: an inspection; one that was tested before changes nothing.
        """
        with self._lock:
            seq = record["seq"]
            self._seq = max(self._seq, seq)
            watched = self._of(record["version"])
            if seq <= watched.seq:
                return
            watched.seq = seq
            values = {"score": record["score"], **record["measures"]}
            found = watched.test.add(values, record["id"], record["time"])
            watched.is_saved = False
            self._unsaved += 1
            for alarm in found:  # before the state is saved: a kill may repeat it, never lose it
                data = {"version": record["version"], **alarm.to_dict()}
                self._station.add_event("drift", data, record["model"])
            if found or self._unsaved >= _SAVE_EVERY:
                self.save()

    def save(self) -> None:
        """Save the state in the database."""
        with self._lock:
            for version, watched in self._watched.items():
                if not watched.is_saved:
                    self._station.save_state(f"drift {version}", watched.to_dict())
                    watched.is_saved = True
            # Last: a part that this counts is in the state of its version.
            saved = {"seq": self._seq, "versions": list(self._watched)}
            self._station.save_state("drift", saved)
            self._unsaved = 0

    def status(self, model: str) -> dict[str, Any]:
        """What the test of the version in use says.

        Raises:
            KeyError: there is no such model.
        """
        version = self._station.registry.active(model).id
        with self._lock:
            watched = self._of(version)
            return {
                "model": model,
                "version": version,
                "restarts": watched.restarts,
                **watched.test.status(),
                "recent": watched.test.recent(),
            }

    def alarm(self, model: str, measure: str) -> Alarm | None:
        """The alarm of a measure in the version in use, if there is one."""
        version = self._station.registry.active(model).id
        with self._lock:
            return next((a for a in self._of(version).test.alarms() if a.measure == measure), None)

    def restart(self, model: str, author: str, reason: str, time: str) -> None:
        """Restart the test: later parts are compared with those from now on.

        Raises:
            KeyError: there is no such model.
        """
        version = self._station.registry.active(model).id
        with self._lock:
            watched = self._of(version)
            watched.test = _new_test()
            restart = {"author": author, "reason": reason, "time": time}
            watched.restarts = [restart, *watched.restarts][:_RESTARTS]
            watched.is_saved = False
            self.save()

    def _of(self, version: int) -> _Watched:
        if version not in self._watched:
            self._watched[version] = _Watched(_new_test())
        return self._watched[version]


@dataclass(eq=False, slots=True)
class _Watched:
    """The test of one version."""

    test: ExchangeabilityTest
    seq: int = 0
    """Of the last part tested."""
    restarts: list[dict[str, str]] = field(default_factory=list)
    """Newest first."""
    is_saved: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"test": self.test.to_dict(), "seq": self.seq, "restarts": self.restarts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> _Watched:
        test = ExchangeabilityTest.from_dict(values["test"])
        return cls(test, values["seq"], values["restarts"], is_saved=True)


def _new_test() -> ExchangeabilityTest:
    return ExchangeabilityTest(secrets.randbits(32), RATE)
