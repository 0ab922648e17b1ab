"""The process of one training job: `python -m cflow_ad.station.training.child FOLDER`.

It reads `job.json`, writes its progress to `progress.json`, and leaves `model.safetensors` and at
last `result.json`, each whole or not at all. It holds `lock` as long as it lives. Killed, it goes
on from its checkpoints when it is started again.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cflow_ad.errors import (
    CflowError,
    DataError,
    DeviceError,
    FolderError,
    WeightsError,
    missing_library,
)
from cflow_ad.files import replacing
from cflow_ad.process import tune_process
from cflow_ad.station.locking import try_lock

if TYPE_CHECKING:
    from cflow_ad.detector import Detector
    from cflow_ad.scoring.base import BaseDetector

LOG = "log.txt"
"""What a process of a job prints."""

CODES: dict[type[Exception], str] = {
    FolderError: "training.folders",
    DataError: "training.data",
    WeightsError: "training.weights",
    DeviceError: "training.device",
    Exception: "training.fault",
}
"""Codes of errors that have none of their own, by the first kind that fits."""

_NICENESS = 10
_EVERY = 0.5  # seconds between two notes of progress


class CancelledError(Exception):
    """Somebody cancelled the job."""


def main(folder: Path) -> int:
    """Train, compare with the model in use, and write the result; returns the exit status."""
    with (folder / "lock").open("a+", encoding="utf-8") as lock:
        if not try_lock(lock):
            return 0  # another process does it already
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        _write(folder / "result.json", _work(folder))
    return 0


def _work(folder: Path) -> dict[str, Any]:
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    tune_process()
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        return {"state": "done", **_train(folder, job)}
    except CancelledError:
        return {"state": "cancelled"}
    except Exception as error:
        traceback.print_exc()  # into the log
        return describe_failure(error, folder)


def describe_failure(error: Exception, folder: Path) -> dict[str, Any]:
    """Describe why a job failed: a sentence in English, and code and values for other languages.

    Args:
        error: what was raised.
        folder: of the job, whose log tells more.
    """
    if isinstance(error, ModuleNotFoundError):
        error = missing_library(error) or error
    text = str(error) if isinstance(error, CflowError) else f"{type(error).__name__}: {error}"
    code, values = getattr(error, "code", ""), getattr(error, "values", {})
    if not code:
        code = next(code for kind, code in CODES.items() if isinstance(error, kind))
        values = {"file": str(folder / LOG)}
    return {"state": "failed", "error": text[:1000], "code": code, "values": values}


def _train(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    import torch

    from cflow_ad.detector import Detector
    from cflow_ad.errors import CalibrationWarning
    from cflow_ad.settings import Settings

    # The other half of the cores is for the inspections that go on meanwhile.
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    progress = _Progress(folder)
    settings = Settings.preset(job["preset"], **job["settings"])
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", CalibrationWarning)
        detector = Detector.fit(
            Path(job["images"]),
            settings,
            device=job.get("device"),
            max_seconds=job.get("max_seconds") or math.inf,
            work=folder / "work",
            progress=lambda at: progress.note(at.stage, at.done, at.total, at.loss),
        )
    detector.save(folder / "model.safetensors", bundle=True)
    parts = compare(
        detector, job, lambda done: progress.note("compare", done, len(job["parts"]), None)
    )
    return {
        "threshold": detector.threshold,
        "seconds": detector.training.get("seconds"),
        "notes": [str(each.message) for each in noted],
        "parts": parts,
    }


def compare(
    detector: Detector, job: dict[str, Any], progress: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Score the marked parts of a job; with the old model too, where another version scored them.

    Args:
        detector: the new one.
        job: as its file says.
        progress: called with the number of parts done.
    """
    from cflow_ad.runtime.opening import open_detector

    old: BaseDetector | None = None
    parts = []
    for number, part in enumerate(job["parts"]):
        progress(number)
        try:
            score = detector.predict(part["picture"]).score
            if part["old_score"] is None:
                old = old or open_detector(Path(job["old"]["file"]), device=job["device"])
                old_score = old.predict(part["picture"]).score
                is_anomalous = old_score > job["old"]["threshold"]
                part |= {"old_score": old_score, "old_anomalous": is_anomalous}
        except CflowError:
            continue  # the picture is not kept any more
        parts.append({**part, "new_score": score, "new_anomalous": score > detector.threshold})
    return parts


class _Progress:
    """Writes progress now and then, and looks whether the job is cancelled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last = -math.inf
        self._stage = ""

    def note(self, stage: str, done: int, total: int, loss: float | None) -> None:
        """Note how far the work is."""
        now = time.monotonic()
        if stage == self._stage and now - self._last < _EVERY:
            return
        self._stage, self._last = stage, now
        if (self._folder / "cancel").exists():
            raise CancelledError
        loss = loss if loss is not None and math.isfinite(loss) else None
        values = {"stage": stage, "done": done, "total": total, "loss": loss}
        _write(self._folder / "progress.json", values)


def _write(path: Path, values: dict[str, Any]) -> None:
    with replacing(path) as new:
        new.write_text(json.dumps(values), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
