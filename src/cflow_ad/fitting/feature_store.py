"""Where the feature cache keeps vectors: in memory, or in files that a later run goes on with."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.cflow.encoder import EncoderSpec
from cflow_ad.errors import SpaceError
from cflow_ad.files import free_space, is_full, reserve
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.fitting.group import Group
from cflow_ad.scoring.canvas import Shape

_STATE = "encoded-{}.json"  # a file of each process
_SAVE_SECONDS = 5.0  # between two records of how far the files are filled


class FeatureStore:
    """Arrays in memory, or in files beside records of how far they are filled.

    The processes of one machine share the files, which the first of them makes.

    Args:
        spec: of the encoder.
        counts: vectors of each level.
        folder: of the files; unset, everything is in memory, which several processes do not share.
        key: identifies everything that the vectors depend on.
        group: the processes.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        counts: Sequence[int],
        folder: Path | None,
        key: str,
        group: Group,
    ) -> None:
        if folder is None:
            group.require_alone("a fit without a work folder")
        self._folder = folder
        self._state = None if folder is None else folder / _STATE.format(group.rank + 1)
        self._key = f"{key} {group.rank} of {group.size}"
        self._noted = time.monotonic()
        self._shapes = list(zip(spec.channels, counts, strict=True))
        if group.is_first_here:
            self.levels = self._open_or_make()
        group.gather(None)
        if not group.is_first_here:
            self.levels = self._open(anew=False)
        self.done = self._read_done()
        """Images of this process that are in the files."""

    def _open_or_make(self) -> list[LevelFeatures]:
        if self._read_done():
            try:
                return self._open(anew=False)
            except (OSError, ValueError):
                pass  # a file is gone, or was cut short
        return self._make()

    def _open(self, *, anew: bool) -> list[LevelFeatures]:
        return [
            LevelFeatures(
                self._array(f"features-{number}", (n, channels), np.float32, anew=anew),
                self._array(f"positions-{number}", (n, 2), np.int16, anew=anew),
            )
            for number, (channels, n) in enumerate(self._shapes)
        ]

    def _array(self, name: str, shape: Shape, dtype: Any, *, anew: bool) -> NDArray[Any]:
        """Make an array, or open that of an earlier run; raises ValueError if it is another."""
        if self._folder is None:
            return np.empty(shape, dtype)
        path = self._folder / f"{name}.npy"
        if anew:
            form = np.lib.format
            header = form.header_data_from_array_1_0(np.empty(0, dtype)) | {"shape": shape}
            with path.open("wb") as file:
                form.write_array_header_1_0(file, header)
                start = file.tell()
            reserve(path, start + math.prod(shape) * np.dtype(dtype).itemsize)
        size = path.stat().st_size
        array = np.lib.format.open_memmap(path, mode="r+", dtype=dtype, shape=shape)
        # The size as it was: opening lengthens a file that was cut short.
        whole = size == array.offset + array.nbytes
        if not whole or array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{path}: not what was kept")
        return array

    def _make(self) -> list[LevelFeatures]:
        """Make the arrays; nothing is left of files that do not fit on the disk."""
        if self._folder is None:
            return self._open(anew=True)
        for state in self._folder.glob(_STATE.format("*")):
            state.unlink()  # it describes files that are about to be overwritten
        try:
            return self._open(anew=True)
        except OSError as error:
            for path in self._folder.glob("*.npy"):
                path.unlink()
            if not is_full(error):
                raise
            needed = sum(n * (4 * channels + 4) for channels, n in self._shapes)
            raise SpaceError(
                f"{self._folder}: the features need {_size(needed)} while training, but the disk "
                f"has {_size(free_space(self._folder))} ({error.strerror}); free some, set a "
                "smaller feature_budget, or give a folder on another disk with --work-folder",
                code="training.space",
                folder=str(self._folder),
                needed=_size(needed),
            ) from error

    def note(self, done: int, *, now: bool = False) -> None:
        """Record that `done` images are in the files."""
        if self._state is None or not (now or time.monotonic() - self._noted > _SAVE_SECONDS):
            return
        for level in self.levels:
            for values in (level.vectors, level.positions):
                if isinstance(values, np.memmap):
                    values.flush()
        self._state.write_text(json.dumps({"key": self._key, "done": done}), encoding="utf-8")
        self._noted = time.monotonic()

    def _read_done(self) -> int:
        if self._state is None:
            return 0
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            return int(state["done"]) if state["key"] == self._key else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0  # no earlier run, or one that was stopped in the middle of this note


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**29 else f"{n_bytes / 2**20:.0f} MiB"
