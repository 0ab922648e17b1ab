"""Train the model of one product, unless the store has it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cflow_ad._version import __version__
from cflow_ad.errors import CalibrationWarning, DataError
from cflow_ad.fleet.manifest import Product
from cflow_ad.fleet.models import ModelStore
from cflow_ad.fleet.versions import Version, now
from cflow_ad.settings import Settings

_NOT_THE_SAME_TWICE = ("seconds", "finished")
"""Facts about a training that differ from run to run; the version has them, the model does not."""


@dataclass(frozen=True)
class Trained:
    """A product's version, and whether it was trained now."""

    version: Version
    is_new: bool


@dataclass(frozen=True)
class Trainer:
    """Trains products one after another, in a worker.

    Args:
        store: The place of the model store.
        threads: Cores that torch computes on. They are a part of a version's name, because sums
            that are split among cores differ in their last bits.
        device: As for `Detector.fit`.
        work: A folder for checkpoints; unset, one in the machine's folder for temporary files.
    """

    store: str
    threads: int
    device: str | None = None
    work: str | None = None

    def __call__(self, product: Product) -> Trained:
        """Train a product, or find that its version is in the store.

        Raises:
            CflowError: It cannot be trained.
        """
        from cflow_ad.fitting.fit import discard
        from cflow_ad.fitting.good_images import find_good_images

        settings = product.settings()
        store = ModelStore(self.store)
        if not Path(product.good).exists():
            raise DataError(f"{product.good}: there is no such folder of good images")
        job = job_name(product, self.threads)
        good = find_good_images(product.good)
        name = _digest([job, good.fingerprint])
        if (found := store.find(product.name, name)) is not None:
            store.settle(found)  # in case the worker that added it died
            return Trained(found, is_new=False)
        with _work_folder(Path(self.work) if self.work else _temporary(), name) as work:
            version, model = self._fit(product, settings, job, name, work)
            added = store.add(version, model)
            if work is not None:
                discard(work)
        return Trained(added, is_new=added == version)

    def _fit(
        self, product: Product, settings: Settings, job: str, name: str, work: Path | None
    ) -> tuple[Version, bytes]:
        import torch

        from cflow_ad.detector import Detector
        from cflow_ad.fitting.good_images import find_good_images
        from cflow_ad.fleet.flags import find_flags

        torch.set_num_threads(self.threads)
        began = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)  # the flag `few` says it
            detector = Detector.fit(product.good, settings, device=self.device, work=work)
        for fact in _NOT_THE_SAME_TWICE:
            detector.training.pop(fact, None)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.safetensors"
            detector.save(file)
            model = file.read_bytes()
        sources = find_good_images(product.good).read_as(detector.reading).sources
        version = Version(
            product=product.name,
            version=name,
            job=job,
            sha256=hashlib.sha256(model).hexdigest(),
            size=len(model),
            n_images=len(sources),
            threshold=detector.threshold,
            false_alarm_rate=detector.calibration.false_alarm_rate,
            achieved_rate=detector.calibration.achieved_rate,
            settings=_differences(settings),
            flags=find_flags(detector, sources),
            good=product.good,
            threads=self.threads,
            seconds=round(time.monotonic() - began, 2),
            host=socket.gethostname(),
            finished=now(),
            made_by=__version__,
        )
        return version, model


def job_name(product: Product, threads: int) -> str:
    """Return what decides a product's model, except for the images, as 16 hexadecimal digits."""
    return _digest([__version__, product.name, threads, product.settings().to_dict()])


def _differences(settings: Settings) -> dict[str, Any]:
    defaults = Settings().to_dict()
    return {k: v for k, v in settings.to_dict().items() if v != defaults[k]}


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _temporary() -> Path:
    owner = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / f"cflow-ad-fleet-{owner}"


@contextlib.contextmanager
def _work_folder(root: Path, name: str) -> Iterator[Path | None]:
    """A folder for a version's checkpoints; None where another process is at work in it."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: no two runs should share one folder there
        yield root / name
        return
    with (root / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        yield root / name
        (root / f"{name}.lock").unlink(missing_ok=True)
