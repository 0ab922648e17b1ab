"""What the readers of the layouts share: their form, names, masks by stem, a stated split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from cflow_ad.data.layouts.dataset import GOOD, Dataset
from cflow_ad.data.listing import has_images, list_images, scan
from cflow_ad.errors import DataError

Item = TypeVar("Item")

SPLIT_NOTE = (
    "this set has no split of its own: the first 80% of the {what}, in the order of the MD5 of "
    "their {name}, are trained on"
)
"""What `split` does, for `Dataset.notes`."""


class Family(NamedTuple):
    """A layout: how it is recognised, and how it is read."""

    name: str
    """As given to `--layout`."""

    is_here: Callable[[Path], bool]
    """Whether a path looks so, by names alone; no image is opened."""

    read: Callable[[Path], Dataset]
    """List what lies there; raises DataError where it is not so."""


def label_of(name: str) -> str:
    """A folder's or a cell's label: ``good`` in any case is good."""
    return GOOD if name.lower() == GOOD else name


def name_of(root: Path) -> str:
    """Name a data set after its folder, and ``bottle/train/good`` after the bottle."""
    resolved = root.resolve()
    parts = [part for part in resolved.parts[1:] if part not in ("train", GOOD)]
    return parts[-1] if parts else resolved.name


def some(names: Sequence[object], most: int = 10) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def is_used(folder: Path) -> bool:
    """Say whether anything lies in a folder: an empty one can be left over from unpacking."""
    return any(scan(folder))


def split(items: Iterable[Item], name: Callable[[Item], str]) -> tuple[list[Item], list[Item]]:
    """Divide what has no split of its own: four fifths to train on, a fifth to test on.

    The order of the MD5 of each name decides, so that it is the same on every machine and has
    nothing to do with the order in which images were taken.

    Args:
        items: what to divide.
        name: each one's name.

    Returns:
        The two parts, each in the order given.

    >>> split(["a", "b", "c", "d", "e"], str)
    (['a', 'b', 'c', 'd'], ['e'])
    """
    items = list(items)
    digests = [hashlib.md5(name(item).encode()).hexdigest() for item in items]
    ranked = sorted(range(len(items)), key=digests.__getitem__)
    n_first = round(0.8 * len(items))
    first, second = sorted(ranked[:n_first]), sorted(ranked[n_first:])
    return [items[index] for index in first], [items[index] for index in second]


def match_masks(ground_truth: Path, test: Path, folders: Sequence[Path]) -> dict[Path, Path]:
    """Match every mask ``DEFECT/STEM_mask.png`` or ``DEFECT/STEM.png`` to its image.

    Args:
        ground_truth: has a folder of masks for each defect; need not be there.
        test: what the error calls the images' place.
        folders: of test images; those of a defect have the name of its folder of masks.

    Raises:
        DataError: a mask has no image or two, or an image has two masks.
    """
    masks: dict[Path, Path] = {}
    if not ground_truth.is_dir():
        return masks
    if has_images(ground_truth):
        raise DataError(
            f"{ground_truth}: masks lie there directly; move them to ground_truth/<defect>"
        )
    named = {folder.name: folder for folder in folders}
    strays: list[Path] = []
    for mask_folder in filter(is_used, scan(ground_truth)[0]):
        if label_of(mask_folder.name) == GOOD:
            raise DataError(f"{mask_folder}: good images have no masks; remove that folder")
        if not has_images(mask_folder):
            raise DataError(
                f"{mask_folder}: no masks lie there directly; name them <stem>_mask.png, one for "
                "each image, or remove that folder"
            )
        images = by_stem(named.get(mask_folder.name))
        for mask in list_images(mask_folder):
            candidates = images[mask.stem] or images[mask.stem.removesuffix("_mask")]
            if not candidates:
                strays.append(mask)
            elif len(candidates) > 1:
                raise DataError(
                    f"{mask}: the mask fits {candidates[0].name} and {candidates[1].name}; "
                    "give the images different names"
                )
            elif (other := masks.setdefault(candidates[0], mask)) != mask:
                raise DataError(f"{candidates[0]}: has two masks, {other} and {mask}; remove one")
    refuse_strays(strays, test)
    return masks


def refuse_strays(strays: Sequence[Path], test: Path) -> None:
    """Raise a DataError if there are masks to which no image in `test` belongs."""
    if strays:
        more = f" (and {len(strays) - 3} more)" if len(strays) > 3 else ""
        raise DataError(
            f"{', '.join(map(str, strays[:3]))}{more}: no image in {test} "
            "belongs to this mask; name it test/<defect>/<stem>, or remove the mask"
        )


def by_stem(folder: Path | None) -> defaultdict[str, list[Path]]:
    """The images of a folder by their names without ending; none where there is no folder."""
    images: defaultdict[str, list[Path]] = defaultdict(list)
    for image in list_images(folder) if folder and is_used(folder) else []:
        images[image.stem].append(image)
    return images
