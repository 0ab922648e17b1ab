"""The drift test of one stream of parts: what moved, since when, and by how much.

All parts count, whatever their verdict: a test of those found good alone would not see what the
threshold removes. The stated rate is shared between the measures (Bonferroni), so it bounds the
probability that any of them ever raises a false alarm, from the first part to the last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from cflow_ad.errors import DataError
from cflow_ad.station.drift.change import find_change
from cflow_ad.station.drift.martingale import Martingales
from cflow_ad.station.drift.measures import BINS, MEASURES
from cflow_ad.station.drift.reference import Reference

RECENT = 500
"""Parts among which the start of a drift is looked for: it cannot be dated further back."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One measure has moved."""

    measure: str

    direction: str
    """One of `up`, `down`, `wider`, `narrower`."""

    since: str
    """The part that the drift most likely began with."""

    since_time: str

    n_before: int
    """Parts before that one."""

    n_after: int
    """Parts from that one on."""

    before: float | None
    """The mean of those before; the geometric mean for a logarithmic measure; None without any."""

    after: float
    """The same of those since."""

    shift: float | None
    """By how many standard deviations of the parts before; None without a spread."""

    capital: float
    """What the test's capital, 1 at first, has become: the evidence."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


class ExchangeabilityTest:
    """Tests whether the parts of a stream still come as they came before.

    Memory is fixed, however many parts come: a histogram of `BINS` bins for each measure, and the
    last `RECENT` parts. The state is plain values for JSON. The numbers that break ties follow
    from the seed and the part's number: the same parts give the same state.

    Args:
        seed: at least 0; another one for each stream.
        rate: the probability, over the whole stream, of any false alarm.

    Example:
        >>> test = ExchangeabilityTest(seed=0)
        >>> rng = np.random.default_rng(0)
        >>> alarms = []
        >>> for n in range(300):
        ...     light = rng.normal(120 if n < 200 else 126, 2)
        ...     alarms += test.add({"brightness": light}, part=str(n))
        >>> [(alarm.measure, alarm.direction, alarm.since) for alarm in alarms]
        [('brightness', 'up', '200')]
    """

    def __init__(self, seed: int, rate: float = 0.01) -> None:
        self.seed = seed
        self.rate = rate
        self._reference = Reference(len(MEASURES), BINS)
        self._martingales = Martingales(len(MEASURES))
        self._sums = np.zeros((len(MEASURES), 3))  # of 1, x and x^2 over all parts
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._changes: dict[str, dict[str, Any]] = {}

    @property
    def n(self) -> int:
        """Parts until now."""
        return self._martingales.n

    @property
    def limit(self) -> float:
        """The capital that is an alarm."""
        return len(MEASURES) / self.rate

    def add(self, values: Mapping[str, float], part: str = "", time: str = "") -> list[Alarm]:
        """Test the next part.

        Args:
            values: by the names in `MEASURES`; one that is missing counts as 0.
            part: what names the part.
            time: when it came.

        Returns:
            Alarms of measures that had none before.

        Raises:
            DataError: a value is not finite; the part then does not count.
        """
        given = [float(values.get(measure.name, 0.0)) for measure in MEASURES]
        if not all(map(math.isfinite, given)):
            raise DataError(f"part {part}: a measure is not a finite number")
        ties = np.random.default_rng([self.seed, self.n]).random(len(MEASURES))
        keys = [measure.key(value) for measure, value in zip(MEASURES, given, strict=True)]
        p_values = self._reference.add(keys, ties)
        capital = self._martingales.bet(p_values)
        scaled = [measure.scale(value) for measure, value in zip(MEASURES, given, strict=True)]
        self._sums += _powers(scaled)
        self._recent.append({"part": part, "time": time, "x": scaled, "p": p_values.tolist()})
        found = []
        for index in np.flatnonzero(capital >= self.limit).tolist():
            if MEASURES[index].name not in self._changes:
                self._changes[MEASURES[index].name] = self._date(index)
                found.append(self._describe(index))
        return found

    def alarms(self) -> list[Alarm]:
        """All that moved, with the means up to now."""
        return [self._describe(i) for i, m in enumerate(MEASURES) if m.name in self._changes]

    def status(self) -> dict[str, Any]:
        """The test as plain values: parts, rate, limit, each measure's capital, and the alarms."""
        capital = self._martingales.capital.tolist()
        return {
            "n": self.n,
            "rate": self.rate,
            "limit": self.limit,
            "capital": {m.name: value for m, value in zip(MEASURES, capital, strict=True)},
            "alarms": [alarm.to_dict() for alarm in self.alarms()],
        }

    def recent(self) -> dict[str, Any]:
        """The last parts, oldest first: `part` and `time`, and the values of each measure."""
        values = [part["x"] for part in self._recent]
        measures = {
            measure.name: [measure.unscale(row[index]) for row in values]
            for index, measure in enumerate(MEASURES)
        }
        return {
            "part": [part["part"] for part in self._recent],
            "time": [part["time"] for part in self._recent],
            "measures": measures,
        }

    def to_dict(self) -> dict[str, Any]:
        """The whole state as plain values, for JSON."""
        return {
            "seed": self.seed,
            "rate": self.rate,
            "measures": [measure.name for measure in MEASURES],
            "reference": self._reference.to_dict(),
            "martingales": self._martingales.to_dict(),
            "sums": self._sums.tolist(),
            "recent": list(self._recent),
            "changes": self._changes,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExchangeabilityTest:
        """From `to_dict`'s form.

        Raises:
            DataError: the state watches other measures.
        """
        if values["measures"] != [measure.name for measure in MEASURES]:
            raise DataError("the stored drift test watches other measures; restart the drift test")
        made = cls(values["seed"], values["rate"])
        made._reference = Reference.from_dict(values["reference"], BINS)
        made._martingales = Martingales.from_dict(values["martingales"])
        made._sums = np.array(values["sums"])
        made._recent.extend(values["recent"])
        made._changes = dict(values["changes"])
        return made

    def _date(self, index: int) -> dict[str, Any]:
        """When a measure moved, and the sums of the parts before."""
        at, direction = find_change([part["p"][index] for part in self._recent])
        since = self._recent[at]
        after = [part["x"][index] for part in islice(self._recent, at, None)]
        before = self._sums[index] - _powers(after).sum(axis=0)
        return {
            "direction": direction,
            "since": since["part"],
            "time": since["time"],
            "before": before.tolist(),
        }

    def _describe(self, index: int) -> Alarm:
        measure, change = MEASURES[index], self._changes[MEASURES[index].name]
        n_before, total, squares = change["before"]
        n_all, total_all, _ = self._sums[index].tolist()
        after = (total_all - total) / (n_all - n_before)
        before = shift = None
        if n_before >= 1:
            before = total / n_before
            spread = math.sqrt(max(0.0, squares / n_before - before**2))
            shift = (after - before) / spread if spread else None
        return Alarm(
            measure=measure.name,
            direction=change["direction"],
            since=change["since"],
            since_time=change["time"],
            n_before=round(n_before),
            n_after=round(n_all - n_before),
            before=None if before is None else measure.unscale(before),
            after=measure.unscale(after),
            shift=shift,
            capital=float(self._martingales.capital[index]),
        )


def _powers(values: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """1, x and x^2 of each value, shape `(len(values), 3)`."""
    x = np.array(values)
    return np.stack((np.ones_like(x), x, x * x), axis=1)
