"""What a benchmark measured, class by class, beside what was published."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cflow_ad.evaluation.published import (
    MVTEC_CLASSES,
    Areas,
    Counts,
    Published,
    published_for,
)
from cflow_ad.settings import Settings

SCHEMA = 1
"""Of the files with rows and with the summary."""

AREAS = ("image AUROC", "pixel AUROC", "AUPRO")
"""Names of the fields of `Areas`, in their order."""


@dataclass(frozen=True, slots=True)
class Row:
    """One class, trained and evaluated with one seed."""

    name: str
    """Of the class."""

    seed: int
    size: str
    """Of the network's input, height x width."""

    counts: Counts
    """Of the images at hand."""

    areas: Areas
    """What was measured, in percent."""

    reference: Areas
    """The same of the authors' scores; see `evaluation.reference`."""

    found: int
    """Defective images above the stored threshold."""

    false_alarms: int
    """Good test images above it."""

    promised: float | None
    """The rate of false alarms that the threshold promises; `None` where it promises none."""

    seconds: tuple[float, float]
    """Of training and of evaluation, wall time."""

    fingerprint: str
    """Of the training images."""

    weights: str
    """Where the backbone's weights came from."""

    machine: str
    """Version of torch, and the device."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """From what `benchmark.py` writes.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if values["schema"] != SCHEMA or values["class"] not in MVTEC_CLASSES:
            raise ValueError(f"schema {values['schema']}, class {values['class']}")
        told = values["evaluation"]
        detector, training = told["detector"], told["detector"]["training"]
        return cls(
            name=str(values["class"]),
            seed=int(values["seed"]),
            size=str(detector["settings"]["size"]),
            counts=Counts(
                int(values["train_images"]),
                int(told["dataset"]["test_good"]),
                int(told["dataset"]["test_defect"]),
            ),
            areas=_areas(told),
            reference=_areas(told["reference"]),
            found=int(told["confusion"]["tp"]),
            false_alarms=int(told["confusion"]["fp"]),
            promised=(
                float(told["false_alarms"]["promised"])
                if detector["calibration"]["held_out"]
                else None
            ),
            seconds=(float(values["seconds"]), float(told["seconds"])),
            fingerprint=str(training["fingerprint"]),
            weights=f"{detector['encoder']['backbone']} ({detector['encoder']['source']})",
            machine=f"torch {training['torch']} on {training['device']}",
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """A class that could not be trained or evaluated."""

    name: str
    seed: int
    reason: str


class Spread(NamedTuple):
    """The mean over seeds, and their standard deviation; `None` where it is undefined."""

    mean: float | None
    deviation: float | None


class Cell(NamedTuple):
    """One area, in percent, beside what was published."""

    measured: Spread
    published: float | None
    difference: float | None


class Comparison(NamedTuple):
    """One class, or the mean of all, beside what was published."""

    name: str
    cells: tuple[Cell, ...]
    """In the order of `AREAS`."""


@dataclass(frozen=True)
class Summary:
    """A benchmark as far as it has come."""

    version: str
    """Of this package."""

    settings: Settings
    """Those in common; the seed is the first one."""

    paper_sizes: bool
    """Whether each class has the size it has in the paper."""

    rows: tuple[Row, ...]
    failures: tuple[Failure, ...] = ()
    absent: tuple[str, ...] = ()
    """Classes that are not among the data."""

    @property
    def by_class(self) -> dict[str, list[Row]]:
        """The rows of each class, in the order of the seeds."""
        ordered = sorted(self.rows, key=lambda row: (row.name, row.seed))
        return {
            name: [row for row in ordered if row.name == name]
            for name in dict.fromkeys(row.name for row in ordered)
        }

    @property
    def references(self) -> tuple[Published, ...]:
        """What the results are compared with, the closest first."""
        return published_for(self.settings.backbone)

    def compare(self, published: Published, *, reference: bool = False) -> list[Comparison]:
        """A line for each class, and one for their mean. Empty if there are no rows.

        Args:
            published: what to compare with.
            reference: take the authors' scores instead of the product's own.
        """

        def areas(row: Row) -> Areas:
            return row.reference if reference else row.areas

        by_class = self.by_class
        lines = [
            Comparison(
                name,
                tuple(
                    _cell(_spread([areas(row)[area] for row in rows]), published.areas[name][area])
                    for area in range(len(AREAS))
                ),
            )
            for name, rows in by_class.items()
        ]
        if not lines:
            return []
        means = []
        for area in range(len(AREAS)):
            cells = [line.cells[area] for line in lines]
            mean = _mean([cell.measured.mean for cell in cells])
            values = {
                name: {row.seed: areas(row)[area] for row in rows}
                for name, rows in by_class.items()
            }
            measured = Spread(mean, _deviation_of_mean(values))
            means.append(_cell(measured, _mean([cell.published for cell in cells])))
        of = f"mean of {len(lines)}" if len(lines) > 1 else "mean"
        return [*lines, Comparison(of, tuple(means))]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON; areas in percent."""
        return {
            "schema": SCHEMA,
            "data_set": "mvtec",
            "version": self.version,
            "settings": self.settings.to_dict(),
            "paper_sizes": self.paper_sizes,
            "classes": {
                name: {
                    "size": rows[0].size,
                    "seeds": [row.seed for row in rows],
                    "images": rows[0].counts._asdict(),
                    "images_are_official": is_official(rows[0]),
                    "values": {
                        area: [row.areas[index] for row in rows] for index, area in enumerate(AREAS)
                    },
                    "reference_values": {
                        area: [row.reference[index] for row in rows]
                        for index, area in enumerate(AREAS)
                    },
                    "found": [row.found for row in rows],
                    "false_alarms": [row.false_alarms for row in rows],
                    "promised_rate": [row.promised for row in rows],
                    "seconds_training": [row.seconds[0] for row in rows],
                    "seconds_evaluating": [row.seconds[1] for row in rows],
                }
                for name, rows in self.by_class.items()
            },
            "beside": self._beside(reference=False),
            "reference_beside": self._beside(reference=True),
            "failures": [
                {"class": failure.name, "seed": failure.seed, "reason": failure.reason}
                for failure in self.failures
            ],
            "absent": list(self.absent),
        }

    def _beside(self, *, reference: bool) -> dict[str, Any]:
        return {
            published.name: {
                line.name: {
                    area: {
                        "mean": cell.measured.mean,
                        "deviation": cell.measured.deviation,
                        "published": cell.published,
                        "difference": cell.difference,
                    }
                    for area, cell in zip(AREAS, line.cells, strict=True)
                }
                for line in self.compare(published, reference=reference)
            }
            for published in self.references
        }

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def is_official(row: Row) -> bool:
    """Whether there are as many images as the class has in MVTec AD."""
    return row.counts == MVTEC_CLASSES[row.name].counts


def _cell(measured: Spread, published: float | None) -> Cell:
    if measured.mean is None or published is None:
        return Cell(measured, published, None)
    return Cell(measured, published, measured.mean - published)


def _spread(values: Sequence[float | None]) -> Spread:
    known = [value for value in values if value is not None]
    deviation = statistics.stdev(known) if len(known) == len(values) > 1 else None
    return Spread(_mean(values), deviation)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _deviation_of_mean(values: Mapping[str, Mapping[int, float | None]]) -> float | None:
    """Of the mean over the classes, from each one's value by seed, over the seeds that all have."""
    seeds = set.intersection(*(set(of_class) for of_class in values.values()))
    return _spread(
        [_mean([of_class[seed] for of_class in values.values()]) for seed in sorted(seeds)]
    ).deviation


def _areas(told: Mapping[str, Any]) -> Areas:
    """Of an evaluation's image and pixel metrics."""
    pixel = told["pixel"] or {"auroc": None, "aupro": None}
    shares = (told["image"]["auroc"], pixel["auroc"], pixel["aupro"])
    return Areas(*(None if share is None else 100 * float(share) for share in shares))
