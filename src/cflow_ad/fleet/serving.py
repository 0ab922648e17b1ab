"""Detectors of many products in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cflow_ad.errors import SettingsError
from cflow_ad.scoring.base import BaseDetector

Key = TypeVar("Key", bound=Hashable)

DEFAULT_GIB = 2.0

_COPIES = 2.2
"""Bytes in memory for each byte of a model's tensors: those that were loaded, and their folded form
(measured: 2.1 for the default model)."""

_EXPORTED = 64 * 2**20
"""Bytes that an exported model counts as, whose library does not say what it uses."""


class DetectorCache(Generic[Key]):
    """Detectors that were used last, as many as fit into a stated amount of memory.

    The bound is on what `size_of` gives; the detector that is asked for is kept in any case. Any
    number of threads may ask: a detector is loaded once, and loading one does not hold up others.

    Args:
        load: Loads the detector of a key.
        gib: The bound, in GiB.

    Raises:
        SettingsError: The bound is not above 0.
    """

    def __init__(self, load: Callable[[Key], BaseDetector], gib: float = DEFAULT_GIB) -> None:
        if not gib > 0:
            raise SettingsError(f"memory is {gib} GiB: it must be greater than 0")
        self._load = load
        self._most = gib * 2**30
        self._found: OrderedDict[Key, tuple[BaseDetector, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._loading: dict[Key, threading.Lock] = {}

    def __len__(self) -> int:
        return len(self._found)

    @property
    def used(self) -> int:
        """Bytes of the detectors in memory."""
        with self._lock:
            return sum(size for _, size in self._found.values())

    def get(self, key: Key) -> BaseDetector:
        """Return the detector of a key, loading it if it is not in memory.

        Raises:
            CflowError: It cannot be loaded.
        """
        if (found := self._in_memory(key)) is not None:
            return found
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            if (found := self._in_memory(key)) is not None:
                return found
            try:
                detector = self._load(key)
                self.put(key, detector)
            finally:
                with self._lock:
                    self._loading.pop(key, None)
            return detector

    def put(self, key: Key, detector: BaseDetector) -> None:
        """Keep a detector that is loaded already."""
        size = size_of(detector)
        with self._lock:
            self._found[key] = detector, size
            self._found.move_to_end(key)
            total = sum(size for _, size in self._found.values())
            while total > self._most and len(self._found) > 1:
                _, (_, freed) = self._found.popitem(last=False)
                total -= freed

    def _in_memory(self, key: Key) -> BaseDetector | None:
        with self._lock:
            if key not in self._found:
                return None
            self._found.move_to_end(key)
            return self._found[key][0]


def size_of(detector: BaseDetector) -> int:
    """Return the bytes of memory that a detector takes, about, without the images it scores."""
    model = getattr(detector, "model", None)
    if model is None:
        return _EXPORTED
    tensors = [*model.parameters(), *model.buffers()]
    return int(_COPIES * sum(each.numel() * each.element_size() for each in tensors))
