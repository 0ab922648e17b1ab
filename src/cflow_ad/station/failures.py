"""Waiting times after failed log-ins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FREE_TRIES = 5
"""Failed log-ins of a name or an address before each further one makes it wait."""
LONGEST_WAIT = 900.0


class Failures:
    """Waiting times after failed log-ins, for each user name and each address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def wait(self, *who: str) -> float:
        """Return the seconds until the next try is allowed, 0 for now."""
        with self._lock:
            now = self._clock()
            return max(0.0, *(self._seen.get(each, (0, 0.0))[1] - now for each in who))

    def note(self, *who: str) -> None:
        """Note a failed log-in."""
        with self._lock:
            now = self._clock()
            for each in who:
                n = self._seen.pop(each, (0, 0.0))[0] + 1
                wait = 0.0 if n < FREE_TRIES else min(LONGEST_WAIT, 2.0 ** (n - FREE_TRIES))
                self._seen[each] = (n, now + wait)
            while len(self._seen) > 10_000:  # the oldest; bounded, whoever asks
                del self._seen[next(iter(self._seen))]

    def forget(self, *who: str) -> None:
        """Note a log-in that was right."""
        with self._lock:
            for each in who:
                self._seen.pop(each, None)
