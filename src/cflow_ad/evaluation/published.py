"""Published results of CFLOW-AD on MVTec AD.

From Gudovskiy, Ishizaka, Kozuka, "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with
Localization via Conditional Normalizing Flows" (WACV 2022, arXiv 2107.12571): areas in percent, of
the epoch that was best on the test images, chosen for each metric on its own. Image counts are
those of Bergmann, Fauser, Sattlegger, Steger, "MVTec AD" (CVPR 2019).
"""

from __future__ import annotations

from typing import NamedTuple


class Areas(NamedTuple):
    """Three areas under curves, in percent; None for one that is undefined or unpublished."""

    image_auroc: float | None
    pixel_auroc: float | None
    aupro: float | None


class MvtecClass(NamedTuple):
    """One class of MVTec AD."""

    side: int  #: side of the network's square input in the paper, in pixels
    counts: tuple[int, int, int]  #: images to train on, good and defective ones to test on
    wide_resnet50: Areas  #: published for WideResNet-50-2
    resnet18: Areas  #: published for ResNet-18


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


def _read_class(side: int, *counts_and_areas: str) -> MvtecClass:
    train, good, defect = map(int, counts_and_areas[:3])
    pixel18, image18, *wide = map(float, counts_and_areas[3:])
    return MvtecClass(side, (train, good, defect), Areas(*wide), Areas(image18, pixel18, None))


MVTEC_CLASSES: dict[str, MvtecClass] = {
    name: _read_class(int(side), *others)
    for name, side, *others in map(str.split, _TABLE.strip().splitlines())
}
"""The fifteen classes, in alphabetical order."""


def find_published(name: str, backbone: str) -> Areas:
    """The published areas of a class: those of ResNet-18 for it, else of WideResNet-50-2.

    >>> find_published("carpet", "resnet18.a1_in1k").pixel_auroc
    99.29
    """
    of = MVTEC_CLASSES[name]
    return of.resnet18 if backbone.partition(".")[0] == "resnet18" else of.wide_resnet50
