"""Check every image and mask of a data set, without a model.

An error would stop training or evaluating: an image, a mask or a region of interest that cannot be
read, or does not fit. A warning is for a person to look at: the same image in training and test,
masks without a defect, files of another kind, good images unlike the others.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cflow_ad.data.clusters import choose_some, describe_cluster
from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.depth import WAY_OUT, Depth, find_depth
from cflow_ad.data.images import AS_STORED, ImageSource, source_name
from cflow_ad.data.layouts import Dataset, Sample
from cflow_ad.data.look import MEASURES, Look, distances, look_at, nearly_alike
from cflow_ad.data.masks import read_mask, read_region
from cflow_ad.data.parallel import work_ahead
from cflow_ad.errors import DataError
from cflow_ad.process import usable_cores

Kind: TypeAlias = Literal[
    "unreadable image",
    "unusable region",
    "unusable mask",
    "strange mask",
    "duplicate",
    "mixed files",
    "mixed depths",
    "fewer bits",
    "outlier",
    "clusters",
]

OUTLYING = 6.0
"""A good image is an outlier from this many robust standard deviations on."""

_FEWEST = 10  # good images, to call one of them unlike the others
_MOST_COMPARED = 20_000  # images on either side: every one is compared with every other


@dataclass(frozen=True, slots=True)
class Finding:
    """An error or a warning."""

    kind: Kind
    path: Path
    """The image."""
    reason: str
    is_error: bool = False
    """Whether it would stop training or evaluating."""

    def to_dict(self) -> dict[str, str]:
        """Return plain values, for JSON."""
        return {"kind": self.kind, "path": str(self.path), "reason": self.reason}


@dataclass(frozen=True)
class Check:
    """What was found in a data set."""

    dataset: Dataset
    counts: dict[str, dict[str, int]]
    """Images by split, ``train`` and ``test``, and label."""
    masks: int
    """Test images with a mask."""
    regions: int
    """Images with a region of interest of their own."""
    sizes: Counter[tuple[int, int]]
    """Images by height and width."""
    modes: Counter[str]
    """Images by the pixel mode of the file, as Pillow names it."""
    depth: Depth
    """Of the images to train on; of those to test on where there are none to train on."""
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What would stop training or evaluating."""
        return tuple(finding for finding in self.findings if finding.is_error)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What a person should look at."""
        return tuple(finding for finding in self.findings if not finding.is_error)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "dataset": {
                "name": self.dataset.name,
                "root": str(self.dataset.root),
                "layout": self.dataset.layout,
                "notes": list(self.dataset.notes),
            },
            "counts": self.counts,
            "masks": self.masks,
            "regions": self.regions,
            "sizes": [
                {"height": height, "width": width, "images": n}
                for (height, width), n in self.sizes.most_common()
            ],
            "modes": dict(self.modes.most_common()),
            "bits": self.depth.bits,
            "depth": self.depth.note,
            "errors": [finding.to_dict() for finding in self.errors],
            "warnings": [finding.to_dict() for finding in self.warnings],
        }


def check_dataset(
    dataset: Dataset,
    reading: Reading = AS_STORED,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Check:
    """Check every image and mask; nothing that is wrong with one is raised.

    `reading` says of the images what their files do not; `progress` is called with the number of
    images done and the number in all.

    Raises:
        DependencyError: A library that an image needs is not installed.
    """
    depth = find_depth([sample.path for sample in dataset.train or dataset.test], reading)
    reading = dataclasses.replace(reading, bits=depth.bits, brightness=depth.brightness)
    samples = {sample.path: sample for sample in (*dataset.train, *dataset.test)}
    looks: dict[Path, Look] = {}
    findings: list[Finding] = []

    def work(source: ImageSource) -> tuple[Path, Look | None, list[Finding]]:
        sample = samples[Path(source_name(source))]
        return sample.path, *_check_files(sample, reading)

    done = work_ahead(samples, work, workers=min(4, usable_cores()), ahead=8)
    for number, (_, (path, look, found)) in enumerate(done, start=1):
        findings += found
        if look is not None:
            looks[path] = look
        progress(number, len(samples))

    findings += _duplicates(dataset, looks)
    findings += _mixed(looks)
    findings += [
        Finding("mixed depths", Path(source_name(source)), f"{why}; {WAY_OUT}", True)
        for source, why in depth.odd
    ]
    findings += _outliers(dataset, looks)
    findings += _clusters(dataset, looks)
    counts = {
        split: dict(sorted(Counter(sample.label for sample in part).items()))
        for split, part in (("train", dataset.train), ("test", dataset.test))
    }
    return Check(
        dataset,
        counts,
        sum(sample.mask is not None for sample in dataset.test),
        sum(sample.roi is not None for sample in samples.values()),
        Counter(look.shape for look in looks.values()),
        Counter(look.mode for look in looks.values()),
        depth,
        tuple(findings),
    )


def _check_files(sample: Sample, reading: Reading) -> tuple[Look | None, list[Finding]]:
    """Read an image, its mask and its region."""
    path = sample.path
    try:
        look = look_at(path, reading)
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return None, [Finding("unreadable image", path, reason, True)]
    findings = [Finding("fewer bits", path, look.doubt)] if look.doubt else []
    try:
        if sample.roi is not None:
            read_region(sample.roi, look.shape)
    except DataError as error:
        findings.append(Finding("unusable region", path, str(error), True))
    try:
        mask = None if sample.mask is None else read_mask(sample.mask, look.shape)
    except DataError as error:
        findings.append(Finding("unusable mask", path, str(error), True))
    else:
        if mask is not None and not mask.any():
            findings.append(Finding("strange mask", path, "its mask shows no defect"))
        elif mask is not None and mask.all():
            findings.append(Finding("strange mask", path, "its mask is all defect; inverted?"))
    return look, findings


def _duplicates(dataset: Dataset, looks: dict[Path, Look]) -> Iterator[Finding]:
    """Images with the very same pixels; then test images that are nearly a training image."""
    first: dict[bytes, Sample] = {}
    train = [sample for sample in dataset.train if sample.path in looks]
    in_training = {sample.path for sample in train}
    test: list[Sample] = []
    for sample in (*train, *(s for s in dataset.test if s.path in looks)):
        other = first.setdefault(looks[sample.path].digest, sample)
        if other is sample:
            if sample.path not in in_training:
                test.append(sample)
            continue
        both = other.path in in_training and sample.path not in in_training
        where = ", a training image" if both else ""
        if other.label != sample.label:
            where += f", which is labelled {other.label}"
        reason = f"the same pixels as {dataset.relative(other.path)}{where}"
        yield Finding("duplicate", sample.path, reason)
    if max(len(train), len(test)) > _MOST_COMPARED:
        return
    pairs = nearly_alike([looks[s.path] for s in test], [looks[s.path] for s in train])
    for index, nearest in pairs:
        name = dataset.relative(train[nearest].path)
        reason = f"nearly the same as {name}, a training image"
        yield Finding("duplicate", test[index].path, reason)


def _mixed(looks: dict[Path, Look]) -> Iterator[Finding]:
    """Files of another pixel mode than most: grey among colour, 16 bits among 8."""
    modes: dict[str, list[Path]] = defaultdict(list)
    for path, look in looks.items():
        modes[look.mode].append(path)
    common = max(modes, key=lambda mode: len(modes[mode]), default="")
    for mode, paths in modes.items():
        if mode != common:
            more = f", and {len(paths) - 1} more like it" if len(paths) > 1 else ""
            yield Finding("mixed files", paths[0], f"of mode {mode}{more}; most are {common}")


def _clusters(dataset: Dataset, looks: dict[Path, Look]) -> Iterator[Finding]:
    """Images to train on that fall into two clusters."""
    paths = choose_some([sample.path for sample in dataset.train if sample.path in looks])
    if text := describe_cluster(paths, [looks[path] for path in paths]):
        yield Finding("clusters", paths[0], text)


def _outliers(dataset: Dataset, looks: dict[Path, Look]) -> Iterator[Finding]:
    """Good images unlike the other good ones, farthest first."""
    good = [s for s in (*dataset.train, *dataset.test) if s.is_good and s.path in looks]
    if len(good) < _FEWEST:
        return
    apart = distances([looks[sample.path] for sample in good])
    farthest = abs(apart).max(axis=1)
    for index in (-farthest).argsort(kind="stable"):
        if farthest[index] < OUTLYING:
            return
        measures = [
            f"{'high' if distance > 0 else 'low'} {name} ({distance:+.0f} standard deviations)"
            for name, distance in zip(MEASURES, apart[index], strict=True)
            if abs(distance) >= OUTLYING
        ]
        reason = f"unlike the other good images: {', '.join(measures)}"
        yield Finding("outlier", good[index].path, reason)
