"""Train and evaluate on every class of MVTec AD, one after another, and keep what is done.

A folder holds one benchmark::

    benchmark.json, benchmark.md       the settings, and all that is finished
    results/CLASS-SEED.json            one class with one seed, written when it is finished
    pictures/CLASS.png                 of the first seed
    work/CLASS-SEED                    what a killed run would lose; removed when it is finished

The last step's model is measured. Nothing is selected on test images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cflow_ad._version import __version__
from cflow_ad.data.fitting import check_fit
from cflow_ad.data.layouts import Dataset, open_dataset
from cflow_ad.detector import Detector
from cflow_ad.errors import (
    CalibrationWarning,
    CflowError,
    DataError,
    SettingsError,
    WeightsError,
)
from cflow_ad.evaluation.benchmark_page import to_markdown
from cflow_ad.evaluation.benchmark_summary import SCHEMA, Failure, Row, Summary
from cflow_ad.evaluation.evaluate import Evaluation, evaluate
from cflow_ad.evaluation.figures import draw_panels
from cflow_ad.evaluation.overlay import map_scale
from cflow_ad.evaluation.published import MVTEC_CLASSES
from cflow_ad.evaluation.results import make_panel, typical_records
from cflow_ad.files import replacing
from cflow_ad.fitting.fit import discard
from cflow_ad.fitting.progress import Progress
from cflow_ad.settings import Settings


class Job(NamedTuple):
    """One class with one seed."""

    name: str
    data: Path
    settings: Settings

    @property
    def stem(self) -> str:
        """Of the names of its files."""
        return f"{self.name}-{self.settings.seed}"


class Watcher:
    """Told how a benchmark comes along; this one keeps it to itself."""

    def begin(self, job: Job, number: int, total: int) -> None:
        """A job begins: which of how many, from 1."""

    def training(self, progress: Progress) -> None:
        """How far training has come."""

    def evaluating(self, done: int, total: int) -> None:
        """How many test images are done."""

    def end(self, outcome: Row | Failure) -> None:
        """What became of the job."""


def find_classes(data: Path, wanted: Sequence[str] = ()) -> dict[str, Path]:
    """The folder of each class that is to be measured.

    Args:
        data: has a folder for each class, or is one class.
        wanted: classes of MVTec AD. Empty, all that are there; a folder that is one class then
            has to have its name.

    Raises:
        SettingsError: a name is none of MVTec AD's.
        DataError: a class, or all of them, are not there.
    """
    known = ", ".join(MVTEC_CLASSES)
    if unknown := [name for name in wanted if name not in MVTEC_CLASSES]:
        raise SettingsError(f"{unknown[0]!r} is no class of MVTec AD; the classes are {known}")
    if not data.is_dir():
        raise DataError(
            f"{data}: there is no such folder; `cflow-ad data download mvtec FOLDER` fetches MVTec "
            "AD"
        )
    if (data / "train").is_dir():
        name = wanted[0] if len(wanted) == 1 else data.resolve().name
        if name not in MVTEC_CLASSES or len(wanted) > 1:
            raise DataError(
                f"{data}: this is one class; say with --classes which one of {known}, or name the "
                "folder that the classes are in"
            )
        return {name: data}
    there = {name: data / name for name in MVTEC_CLASSES if (data / name).is_dir()}
    if not there:
        raise DataError(
            f"{data}: no class of MVTec AD lies there; name the folder that has bottle, cable and "
            "so on in it"
        )
    if absent := [name for name in wanted if name not in there]:
        raise DataError(f"{data}: {', '.join(absent)} is not there; leave it out of --classes")
    return {name: there[name] for name in wanted} if wanted else there


class Benchmark:
    """A benchmark in its folder.

    Args:
        folder: new, empty, or that of an earlier run with the same settings, which is gone on
            with.
        settings: of every class; the seed is the first one.
        paper_sizes: give each class the size that it has in the paper.

    Raises:
        DataError: the folder has results of other settings, or cannot be used.
    """

    def __init__(self, folder: Path, settings: Settings, *, paper_sizes: bool = False) -> None:
        self.folder = folder
        self.settings = settings
        self.paper_sizes = paper_sizes
        self._failures: list[Failure] = []
        self._absent: tuple[str, ...] = ()
        self._check_earlier()

    def run(
        self,
        classes: Mapping[str, Path],
        seeds: int = 1,
        *,
        device: str | None = None,
        watcher: Watcher | None = None,
    ) -> Summary:
        """Measure what is not measured yet, class by class.

        A class that cannot be read, trained or evaluated is noted as a failure, and the others go
        on.

        Args:
            classes: their folders; see `find_classes`.
            seeds: how many; the first is that of the settings, the others follow it.
            device: where to run; unset, a GPU if there is one.
            watcher: told how it comes along.

        Returns:
            All that the folder has, and what failed in this call.

        Raises:
            DataError: results in the folder are of other images.
            OSError: the folder cannot be written to.
            SettingsError: a setting cannot be used, whatever the class.
            WeightsError: the backbone's weights are not to be had.
        """
        watcher = watcher or Watcher()
        jobs = [
            Job(name, data, self._settings_of(name, self.settings.seed + index))
            for name, data in classes.items()
            for index in range(seeds)
        ]
        self._check_images(jobs)
        self._absent = tuple(name for name in MVTEC_CLASSES if name not in classes)
        self._write_summary()
        spoilt: set[str] = set()
        for number, job in enumerate(jobs, start=1):
            if job.name in spoilt or self._finished(job) is not None:
                continue
            watcher.begin(job, number, len(jobs))
            outcome = self._attempt(job, device, watcher)
            if isinstance(outcome, Failure):
                self._failures.append(outcome)
                spoilt.add(job.name)
            self._write_summary()
            watcher.end(outcome)
        with contextlib.suppress(OSError):  # a class that failed may be tried again
            (self.folder / "work").rmdir()
        return self.summary()

    def summary(self) -> Summary:
        """All that is finished."""
        rows = (_read_row(path) for path in sorted((self.folder / "results").glob("*.json")))
        return Summary(
            version=__version__,
            settings=self.settings,
            paper_sizes=self.paper_sizes,
            rows=tuple(row for row in rows if row is not None),
            failures=tuple(self._failures),
            absent=self._absent,
        )

    @property
    def pictures(self) -> dict[str, Path]:
        """The picture of each class that has one."""
        paths = ((name, self.folder / "pictures" / f"{name}.png") for name in MVTEC_CLASSES)
        return {name: path for name, path in paths if path.exists()}

    def _settings_of(self, name: str, seed: int) -> Settings:
        if self.paper_sizes:
            side = MVTEC_CLASSES[name].side
            return dataclasses.replace(self.settings, seed=seed, size=f"{side}x{side}")
        return dataclasses.replace(self.settings, seed=seed)

    def _attempt(self, job: Job, device: str | None, watcher: Watcher) -> Row | Failure:
        try:
            values = self._measure(job, device, watcher)
        except (SettingsError, WeightsError):
            raise  # no other class would fare better
        except (CflowError, OSError, MemoryError, RuntimeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            return Failure(job.name, job.settings.seed, reason)
        _write(self._result(job), json.dumps(values, indent=1, allow_nan=False) + "\n")
        discard(self._work(job))
        return Row.from_dict(values)

    def _measure(self, job: Job, device: str | None, watcher: Watcher) -> dict[str, Any]:
        dataset = open_dataset(job.data)
        check_fit(dataset.require_test())  # before the training
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)  # the table says what is promised
            detector = Detector.fit(
                dataset,
                job.settings,
                device=device,
                work=self._work(job),
                progress=watcher.training,
            )
        evaluation = evaluate(detector, dataset, reference=True, progress=watcher.evaluating)
        if job.settings.seed == self.settings.seed:
            self._draw(job.name, evaluation, detector)
        return {
            "schema": SCHEMA,
            "class": job.name,
            "seed": job.settings.seed,
            "train_images": len(dataset.train),
            "seconds": detector.training["seconds"],
            "evaluation": evaluation.to_dict(),
        }

    def _draw(self, name: str, evaluation: Evaluation, detector: Detector) -> None:
        """As in the paper: outlined at the pixels' threshold of best F1."""
        threshold = detector.threshold
        if evaluation.pixel is not None and evaluation.pixel.n_defect_pixels:
            threshold = evaluation.pixel.best_f1_threshold
        records = typical_records(evaluation)
        folder = self.folder / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        draw_panels(
            [make_panel(record.sample, detector, threshold) for record in records],
            threshold=threshold,
            scale=map_scale(detector.threshold),
            path=folder / f"{name}.png",
        )

    def _finished(self, job: Job) -> Row | None:
        return _read_row(self._result(job))

    def _result(self, job: Job) -> Path:
        return self.folder / "results" / f"{job.stem}.json"

    def _work(self, job: Job) -> Path:
        return self.folder / "work" / job.stem

    def _write_summary(self) -> None:
        summary = self.summary()
        pictures = {
            name: path.relative_to(self.folder).as_posix() for name, path in self.pictures.items()
        }
        _write(self.folder / "benchmark.json", summary.to_json())
        _write(self.folder / "benchmark.md", to_markdown(summary, pictures))

    def _check_earlier(self) -> None:
        """See that results that are there already belong to these settings."""
        path = self.folder / "benchmark.json"
        if not path.exists():
            if self.folder.exists() and not self.folder.is_dir():
                raise DataError(f"{self.folder}: this is a file; name a folder")
            return
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            there = {**values["settings"], **{k: values[k] for k in ("version", "paper_sizes")}}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: not of this command, or damaged; name another folder with -o"
            ) from error
        now = {
            **self.settings.to_dict(),
            "version": __version__,
            "paper_sizes": self.paper_sizes,
        }
        free = {"seed", "size"} if self.paper_sizes else {"seed"}
        differing = [
            f"{name} is {there.get(name)} there and {now.get(name)} now"
            for name in sorted(there.keys() | now.keys())
            if name not in free and there.get(name) != now.get(name)
        ]
        if differing:
            raise DataError(
                f"{self.folder}: has results of other settings ({'; '.join(differing[:3])}); name "
                "another folder with -o, or remove it"
            )

    def _check_images(self, jobs: Sequence[Job]) -> None:
        """See that results that are there already are of the images that are there now."""
        fingerprints: dict[str, tuple[str, int, int] | None] = {}
        for job in jobs:
            row = self._finished(job)
            if row is None:
                continue
            if job.name not in fingerprints:
                fingerprints[job.name] = _fingerprint(job.data)
            now = fingerprints[job.name]
            then = (row.fingerprint, row.counts.test_good, row.counts.test_defect)
            if now is not None and now != then:
                raise DataError(
                    f"{self._result(job)}: measured on other images than lie in {job.data} now; "
                    "name another folder with -o, or remove that file"
                )


def _fingerprint(data: Path) -> tuple[str, int, int] | None:
    """What tells one class's images from others; None where they can't be read any more."""
    try:
        dataset: Dataset = open_dataset(data)
        good = sum(sample.is_good for sample in dataset.test)
        return dataset.fingerprint(), good, len(dataset.test) - good
    except DataError:
        return None


def _read_row(path: Path) -> Row | None:
    """None where it is not there, or was spoilt; then it is measured again."""
    try:
        return Row.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8", errors="backslashreplace")
