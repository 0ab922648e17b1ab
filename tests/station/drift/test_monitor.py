"""The monitor keeps a test for each version, and loses no part and no alarm over a restart."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from cflow_ad.station.drift import monitor
from cflow_ad.station.drift.monitor import DriftMonitor


class Station:
    """What a monitor needs of a station: its record, its models in use, and a place for state."""

    def __init__(self, rows):
        self.rows, self.states, self.alarms = rows, {}, []
        self.records = SimpleNamespace(
            after=lambda seq, limit: [row for row in self.rows if row["seq"] > seq][:limit]
        )
        self.registry = SimpleNamespace(active=lambda model: SimpleNamespace(id=1))

    def add_event(self, kind, data, model):
        assert (kind, model) == ("drift", "carpet")
        self.alarms.append((data["version"], data["measure"], data["since"]))

    def load_state(self, name):
        return json.loads(self.states.get(name, "null"))

    def save_state(self, name, value):
        self.states[name] = json.dumps(value, allow_nan=False)


@pytest.fixture
def rows():
    """Of two versions; the light of the first one's parts changes at part 300."""
    rng = np.random.default_rng(0)
    return [
        {
            "seq": seq,
            "id": f"part {seq}",
            "time": f"time {seq}",
            "model": "carpet",
            "version": 1 + seq % 2,
            "score": rng.lognormal(),
            "measures": {"brightness": rng.normal(120 + 8 * (seq >= 300 and seq % 2 == 0), 2)},
        }
        for seq in range(1, 400)
    ]


@pytest.fixture(autouse=True)
def same_seed(monkeypatch):
    monkeypatch.setattr(monitor.secrets, "randbits", lambda bits: 5)


def watch_all(station):
    watch = DriftMonitor(station)
    for row in station.rows:
        watch.update(row)
    return watch


def test_each_version_has_a_test_of_its_own(rows):
    station = Station(rows)
    watch = watch_all(station)
    assert station.alarms == [(1, "brightness", "part 300")]
    status = watch.status("carpet")
    assert status["n"] == 199
    assert status["recent"]["part"][-1] == "part 398"
    assert [alarm["measure"] for alarm in status["alarms"]] == ["brightness"]
    assert watch.alarm("carpet", "brightness").n_before == 149
    assert watch.alarm("carpet", "x") is None
    json.dumps(status, allow_nan=False)


@pytest.mark.parametrize("killed_at", [1, 99, 100, 205, 310, 398])
def test_a_kill_at_any_part_loses_nothing(rows, killed_at):
    """What was not saved is read from the record again, and nothing counts twice."""
    whole = Station(rows)
    expected = watch_all(whole)
    station = Station(rows[:killed_at])
    watch_all(station)
    station.rows = rows  # some were recorded, but not tested, before the kill
    second = DriftMonitor(station)
    second.restore()
    second.update(rows[-1])  # and this one comes again
    assert station.alarms == whole.alarms
    assert second.status("carpet") == expected.status("carpet")


def test_an_alarm_is_not_lost_if_the_state_could_not_be_saved(rows, monkeypatch):
    station = Station(rows)

    def fail(name, value):
        raise OSError

    monkeypatch.setattr(station, "save_state", fail)
    with pytest.raises(OSError):  # noqa: PT011
        watch_all(station)
    monkeypatch.undo()
    watch_again = DriftMonitor(station)
    watch_again.restore()
    assert set(station.alarms) == {(1, "brightness", "part 300")}


def test_a_kill_between_two_saves_counts_no_part_twice(rows):
    station = Station(rows)
    first = DriftMonitor(station)
    for row in rows[:150]:
        first.update(row)
    old = station.states["drift"]
    for row in rows[150:250]:
        first.update(row)
    station.states["drift"] = old  # as if killed after the versions' states and before this one
    second = DriftMonitor(station)
    second.restore()
    assert second.status("carpet")["n"] == 199


def test_a_restart_is_a_new_reference_and_is_remembered(rows):
    station = Station(rows)
    watch = watch_all(station)
    watch.restart("carpet", "ann", "new lamp", "today")
    again = DriftMonitor(station)
    again.restore()
    status = again.status("carpet")
    assert (status["n"], status["alarms"]) == (0, [])
    assert status["restarts"] == [{"author": "ann", "reason": "new lamp", "time": "today"}]


def test_a_state_of_an_earlier_release_begins_anew(rows):
    station = Station(rows)
    watch = DriftMonitor(station)
    watch.update(rows[1])
    watch.save()
    state = station.load_state("drift 1")
    state["test"]["measures"] = ["score"]
    station.save_state("drift 1", state)
    again = DriftMonitor(station)
    again.restore()
    assert again.status("carpet")["n"] == 198
