"""The form of a layout's reader, and what several readers need."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from cflow_ad.data.annotations import Outlines
from cflow_ad.data.layouts.dataset import GOOD, Sample
from cflow_ad.data.layouts.words import is_good_name
from cflow_ad.data.listing import list_images, scan
from cflow_ad.data.masks import MaskFiles
from cflow_ad.errors import DataError

Item = TypeVar("Item")

SPLIT_NOTE = (
    "this set has no split of its own: the first 80% of the {what}, in the order of the MD5 of "
    "their {name}, are trained on"
)
"""What `split` does, for `Listing.notes`."""


class Listing(NamedTuple):
    """The images of a data set; see `Dataset`."""

    train: Sequence[Sample]
    test: Sequence[Sample]
    notes: Sequence[str] = ()

    root: Path | None = None
    """The data set's folder, where that is not the path that was opened."""

    name: str = ""
    """The data set's name, where that is not its folder's."""


class Layout(NamedTuple):
    """How data sets of one kind are stored on disk."""

    name: str
    """As given to `--layout`."""

    fits: Callable[[Path], bool]
    """Whether a path seems to have this layout, by names alone; no image is opened."""

    read: Callable[[Path], Listing]
    """List the images; raises DataError where the layout is another."""

    train_place: str = "put them in train/good"
    """What to do where images to train on are missing."""

    test_place: str = "put them in test/good and test/<defect>"
    """What to do where images to test on are missing."""


def read_samples(
    folder: Path,
    label: str = GOOD,
    masks: Mapping[Path, Path | Outlines] | Mapping[Path, MaskFiles] | None = None,
    *,
    recursive: bool = True,
) -> list[Sample]:
    """List the images of a folder as samples of one label; none where it is missing or empty."""
    masks = masks or {}
    images = list_images(folder, recursive=recursive) if is_used(folder) else []
    return [Sample(image, label, masks.get(image)) for image in images]


def label_of(name: str) -> str:
    """Return the label that a folder or a cell names: any word for good is ``good``."""
    return GOOD if is_good_name(name) else name


def some(names: Sequence[object], most: int = 10) -> str:
    """Join the first few names, and state how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def is_used(folder: Path) -> bool:
    """Return whether a folder exists and is not empty, as one left over from unpacking may be."""
    return folder.is_dir() and any(scan(folder))


def left_out(samples: Sequence[Sample]) -> tuple[list[Sample], list[str]]:
    """Return the good ones of some training images, and a note on the others."""
    good = [sample for sample in samples if sample.is_good]
    defective = len(samples) - len(good)
    return good, [f"{defective} defective training images are left out"] if defective else []


def split(items: Iterable[Item], name: Callable[[Item], str]) -> tuple[list[Item], list[Item]]:
    """Divide what has no split of its own: four fifths to train on, a fifth to test on.

    The order of the MD5 of each name decides. So the split is the same on every machine and is
    independent of the order in which images were taken. Each part keeps the order given.

    >>> split(["a", "b", "c", "d", "e"], str)
    (['a', 'b', 'c', 'd'], ['e'])
    """
    items = list(items)
    digests = [hashlib.md5(name(item).encode()).hexdigest() for item in items]
    ranked = sorted(range(len(items)), key=digests.__getitem__)
    first = set(ranked[: round(0.8 * len(items))])
    return (
        [item for index, item in enumerate(items) if index in first],
        [item for index, item in enumerate(items) if index not in first],
    )


def refuse_strays(strays: Sequence[Path], test: Path) -> None:
    """Raise a DataError if there are masks without an image in `test`."""
    if strays:
        raise DataError(
            f"{some(strays, 3)}: no image in {test} belongs to this mask; name it "
            "test/<defect>/<stem>, or remove the mask"
        )


def by_stem(folder: Path | None) -> defaultdict[str, list[Path]]:
    """Return the images of a folder and its sub-folders by `name_in`."""
    images: defaultdict[str, list[Path]] = defaultdict(list)
    if folder is not None:
        for sample in read_samples(folder):
            images[name_in(folder, sample.path)].append(sample.path)
    return images


def name_in(folder: Path, file: Path) -> str:
    """Return a file's name in a folder, without suffix, with slashes for sub-folders."""
    return file.relative_to(folder).with_suffix("").as_posix()
