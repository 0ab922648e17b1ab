"""Published results of CFLOW-AD on MVTec AD, to stand beside one's own.

The figures are those of Gudovskiy, Ishizaka, Kozuka, "CFLOW-AD: Real-Time Unsupervised Anomaly
Detection with Localization via Conditional Normalizing Flows" (WACV 2022, arXiv 2107.12571): areas
in percent, of the epoch that was best on the test images, for each metric its own. Image counts
are those of Bergmann, Fauser, Sattlegger, Steger, "MVTec AD" (CVPR 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Areas(NamedTuple):
    """Three areas under curves, in percent; `None` where one was not published."""

    image_auroc: float | None
    pixel_auroc: float | None
    aupro: float | None


class Counts(NamedTuple):
    """How many images a class has."""

    train: int
    test_good: int
    test_defect: int


@dataclass(frozen=True, slots=True)
class MvtecClass:
    """One class of MVTec AD."""

    name: str
    side: int
    """Of the network's square input in the paper, in pixels."""

    counts: Counts
    """Of the official split."""


@dataclass(frozen=True)
class Published:
    """What was published of one backbone."""

    name: str
    areas: dict[str, Areas]
    """By class."""


# class: side; images: train, test good, test defect; ResNet-18: pixel, image AUROC;
# WideResNet-50-2: image, pixel AUROC, AUPRO
_TABLE = """
bottle       512   209 20  63    98.64 100.0    100.0 98.98 96.80
cable        256   224 58  92    96.75 97.62    97.59 97.64 93.53
capsule      256   219 23 109    98.62 93.15    97.68 98.98 93.40
carpet       512   280 28  89    99.29 98.20    98.73 99.25 97.70
grid         512   264 21  57    98.53 98.97    99.60 98.99 96.08
hazelnut     256   391 40  70    98.81 99.91    99.98 98.89 96.68
leather      512   245 32  92    99.51 100.0    100.0 99.66 99.35
metal_nut    256   220 22  93    97.59 98.45    99.26 98.56 91.65
pill         256   267 26 141    98.34 93.02    96.82 98.95 95.39
screw        512   320 41 119    98.40 85.94    91.89 98.86 95.30
tile         512   230 33  84    95.80 98.40    99.88 98.01 94.34
toothbrush   512    60 12  30    99.00 99.86    99.65 98.93 95.06
transistor   128   213 60  40    97.69 93.04    95.21 97.99 81.40
wood         512   247 19  60    95.00 98.59    99.12 96.65 95.79
zipper       512   240 32 119    98.98 96.15    98.48 99.08 96.60
"""
_ROWS = [line.split() for line in _TABLE.strip().splitlines()]

MVTEC_CLASSES: dict[str, MvtecClass] = {
    name: MvtecClass(name, int(side), Counts(*map(int, counts)))
    for name, side, *counts in (row[:5] for row in _ROWS)
}
"""The fifteen classes, in the order of the alphabet."""

WIDE_RESNET50 = Published(
    "WideResNet-50-2", {row[0]: Areas(*map(float, row[7:10])) for row in _ROWS}
)
RESNET18 = Published(
    "ResNet-18", {row[0]: Areas(float(row[6]), float(row[5]), None) for row in _ROWS}
)


def published_for(backbone: str) -> tuple[Published, ...]:
    """What to compare results of a backbone with, the closest first.

    Args:
        backbone: as timm names it, with or without the tag of its weights.

    >>> [published.name for published in published_for("resnet18.a1_in1k")]
    ['ResNet-18', 'WideResNet-50-2']
    """
    architecture = backbone.partition(".")[0]
    return (RESNET18, WIDE_RESNET50) if architecture == "resnet18" else (WIDE_RESNET50,)
