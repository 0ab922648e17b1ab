"""Look at every image and mask of a data set, and say what is wrong or strange, without a model.

An error is what would stop training or evaluating: an image that cannot be read, a mask or a region
of interest that cannot be, or that does not fit. All else is a warning, for a person to judge: the
same image in training and test, masks without a defect, files of another kind, good images unlike
the others.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cflow_ad.data.images import ImageSource, source_name
from cflow_ad.data.layouts import Dataset, Sample
from cflow_ad.data.look import MEASURES, Look, look_at, nearly_alike, outlying
from cflow_ad.data.masks import read_mask, read_region
from cflow_ad.data.parallel import work_ahead
from cflow_ad.errors import DataError

Kind: TypeAlias = Literal[
    "unreadable image",
    "unusable region",
    "unusable mask",
    "strange mask",
    "duplicate",
    "mixed files",
    "outlier",
]

OUTLYING = 6.0
"""A good image is an outlier from this many robust standard deviations on."""

_FEWEST = 10  # good images, to call one of them unlike the others
_MOST_COMPARED = 20_000  # images on either side: every one is compared with every other


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong or strange."""

    kind: Kind
    path: Path
    """The image."""
    reason: str
    is_error: bool = False
    """Whether it would stop training or evaluating."""


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
        """As plain values, for JSON."""
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
            "errors": [_plain(finding) for finding in self.errors],
            "warnings": [_plain(finding) for finding in self.warnings],
        }


def check_dataset(
    dataset: Dataset, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Check:
    """Look at every image and mask.

    Args:
        dataset: what to look at.
        progress: called with the number of images done and the number in all.

    Returns:
        What was found. Nothing that is wrong with an image or a mask is raised.
    """
    samples = {sample.path: sample for sample in (*dataset.train, *dataset.test)}
    looks: dict[Path, Look] = {}
    findings: list[Finding] = []

    def work(source: ImageSource) -> tuple[Path, Look | None, list[Finding]]:
        sample = samples[Path(source_name(source))]
        return sample.path, *_look(sample)

    done = work_ahead(samples, work, workers=min(4, os.cpu_count() or 1), ahead=8)
    for number, (_, (path, look, found)) in enumerate(done, start=1):
        findings += found
        if look is not None:
            looks[path] = look
        progress(number, len(samples))

    findings += _duplicates(dataset, looks)
    findings += _mixed(dataset, looks)
    findings += _outliers(dataset, looks)
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
        tuple(findings),
    )


def _look(sample: Sample) -> tuple[Look | None, list[Finding]]:
    try:
        look = look_at(sample.path)
    except DataError as error:
        return None, [Finding("unreadable image", sample.path, _why(error, sample.path), True)]
    return look, [*_region(sample, look.shape), *_mask(sample, look.shape)]


def _region(sample: Sample, shape: tuple[int, int]) -> Iterator[Finding]:
    try:
        if sample.roi is not None:
            read_region(sample.roi, shape)
    except DataError as error:
        yield Finding("unusable region", sample.path, str(error), True)


def _mask(sample: Sample, shape: tuple[int, int]) -> Iterator[Finding]:
    if sample.mask is None:
        return
    try:
        mask = read_mask(sample.mask, shape)
    except DataError as error:
        yield Finding("unusable mask", sample.path, str(error), True)
        return
    if not mask.any():
        yield Finding("strange mask", sample.path, "its mask shows no defect")
    elif mask.all():
        yield Finding("strange mask", sample.path, "its mask is all defect; inverted?")


def _duplicates(dataset: Dataset, looks: dict[Path, Look]) -> Iterator[Finding]:
    """Images with the very same pixels; then test images that are nearly a training image."""
    first: dict[bytes, Sample] = {}
    in_training = {sample.path for sample in dataset.train}
    exact: set[Path] = set()
    for sample in (*dataset.train, *dataset.test):
        if (look := looks.get(sample.path)) is None:
            continue
        other = first.setdefault(look.digest, sample)
        if other is sample:
            continue
        exact.add(sample.path)
        both = other.path in in_training and sample.path not in in_training
        where = ", a training image" if both else ""
        if other.label != sample.label:
            where += f", which is labelled {other.label}"
        yield Finding(
            "duplicate",
            sample.path,
            f"the same pixels as {dataset.relative(other.path)}{where}",
        )
    train = [sample for sample in dataset.train if sample.path in looks]
    test = [s for s in dataset.test if s.path in looks and s.path not in exact]
    if max(len(train), len(test)) > _MOST_COMPARED:
        return
    pairs = nearly_alike([looks[s.path] for s in test], [looks[s.path] for s in train])
    for index, nearest in pairs:
        name = dataset.relative(train[nearest].path)
        reason = f"nearly the same as {name}, a training image"
        yield Finding("duplicate", test[index].path, reason)


def _mixed(dataset: Dataset, looks: dict[Path, Look]) -> Iterator[Finding]:
    """Files of another pixel mode than most: grey among colour, 16 bits among 8."""
    modes: dict[str, list[Path]] = defaultdict(list)
    for path, look in looks.items():
        modes[look.mode].append(path)
    common = max(modes, key=lambda mode: len(modes[mode]), default="")
    for mode, paths in modes.items():
        if mode != common:
            more = f", and {len(paths) - 1} more like it" if len(paths) > 1 else ""
            yield Finding("mixed files", paths[0], f"of mode {mode}{more}; most are {common}")


def _outliers(dataset: Dataset, looks: dict[Path, Look]) -> Iterator[Finding]:
    """Good images unlike the other good ones, farthest first."""
    good = [s for s in (*dataset.train, *dataset.test) if s.is_good and s.path in looks]
    if len(good) < _FEWEST:
        return
    apart = outlying([looks[sample.path] for sample in good])
    apart[:, -1] = apart[:, -1].clip(min=0)  # to be close to the median image is no fault
    far = sorted(
        (index for index in range(len(good)) if abs(apart[index]).max() >= OUTLYING),
        key=lambda index: -abs(apart[index]).max(),
    )
    for index in far:
        yield Finding("outlier", good[index].path, _unlike(apart[index].tolist()))


def _unlike(apart: Sequence[float]) -> str:
    said = [
        f"{'high' if distance > 0 else 'low'} {name} ({distance:+.0f} standard deviations)"
        for name, distance in zip(MEASURES, apart, strict=True)
        if abs(distance) >= OUTLYING
    ]
    return f"unlike the other good images: {', '.join(said)}"


def _why(error: DataError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _plain(finding: Finding) -> dict[str, str]:
    return {"kind": finding.kind, "path": str(finding.path), "reason": finding.reason}
