"""Folders with names for good and defective images, in the words and the order that people choose.

::

    ROOT/OK/*  ROOT/NG/scratch/*  ROOT/masks/scratch/*
    ROOT/train/gut/*  ROOT/test/gut/*  ROOT/test/schlecht/*
    ROOT/良品/*  ROOT/不良品/*
    ROOT/2026-11-01/ok/*  ROOT/2026-11-02/ok/*  ROOT/*  ROOT/NG/*

A folder's name is a word of `words`, or is given as `FolderNames`. Folders of other names divide
good images by day or lot, and name the defects of defective ones. The mask of ``NG/scratch/1.png``
is ``1.png``, ``1_mask.png``, ``scratch/1.png`` or ``NG/scratch/1.png`` in a folder of masks, or
``1_mask.png`` beside it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Sample
from cflow_ad.data.layouts.places import (
    Place,
    check_names,
    has_digit,
    read_place,
    unclear_error,
    words_of,
)
from cflow_ad.data.layouts.reading import SPLIT_NOTE, Listing, some, split
from cflow_ad.data.layouts.words import FolderNames, kind_of_name
from cflow_ad.data.listing import is_image, list_images, scan, walk
from cflow_ad.data.masks import OUTLINES_SUFFIX, is_blank, outlines_beside
from cflow_ad.errors import DataError

_MASK_ENDINGS = ("_mask", "-mask", "_gt")


@dataclass
class _Found:
    images: list[tuple[Path, Place]] = field(default_factory=list)
    masks: list[tuple[Path, Place]] = field(default_factory=list)
    beside: dict[Path, Path] = field(default_factory=dict)
    """Masks that lie beside their images."""


def fits_named(root: Path) -> bool:
    """Return whether words for good or defective name folders of a folder."""
    if not root.is_dir():
        return False
    pending = [root]
    while pending:
        for below in scan(pending.pop())[0]:
            kind = kind_of_name(below.name)
            if kind in ("good", "bad"):
                return True
            if kind in ("train", "test", "validation", "images") or has_digit(below.name):
                pending.append(below)
    return False


def read_named(root: Path, names: FolderNames) -> Listing:
    """List the images.

    Raises:
        FolderError: The names do not say which images are good.
        DataError: A mask has no image, several, or that of a good image; or no folder has the name
            that was given.
    """
    list_images(root)  # raises where there are none
    names = check_names(root, names) if names else names
    found = _find(root, names)
    known = {place.label for _, place in found.images}
    has_test = any(place.split == "test" for _, place in found.images)
    samples: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    unclear: list[tuple[Path, Place]] = []
    for path, place in found.images:
        part = place.split
        if part == "validation" and not has_test:
            part = "test"
        if place.label == GOOD:
            samples[f"good {part}"].append((path, GOOD))
        elif place.label:
            samples[f"bad {part}"].append((path, place.kind or place.label))
        elif part == "test" and place.other:
            samples[f"bad {part}"].append((path, place.other[0]))
        elif part == "train" and not words_of(place):
            samples["good train"].append((path, GOOD))
        elif part == "" and GOOD in known and words_of(place):
            samples["bad "].append((path, words_of(place)[0]))
        elif part == "" and GOOD not in known and known - {""} and not words_of(place):
            samples["good "].append((path, GOOD))
        else:
            unclear.append((path, place))
    if unclear:
        raise unclear_error(root, found.images, names)
    train, test, notes = _divide(root, samples)
    masks = _match(root, found, {path for path, label in test if label != GOOD})
    return Listing(
        [Sample(path, GOOD) for path, _ in train],
        [Sample(path, label, masks.get(path)) for path, label in test],
        notes,
    )


def read_plain(root: Path) -> Listing:
    """List the images of a folder and its sub-folders, all good.

    Raises:
        FolderError: Sub-folders have different names without a number, so some may hold defects.
    """
    found = _find(root, FolderNames())
    groups = {words_of(place) for _, place in found.images}
    if len(groups) > 1:
        raise unclear_error(root, found.images, FolderNames())
    folders = {path.parent for path, _ in found.images} - {root}
    notes = []
    if folders:
        n = len(folders)
        notes.append(f"the images in {n} sub-folder{'s' * (n > 1)} are included, as good")
    if masks := len(found.beside) + len(found.masks):
        notes.append(f"{masks} mask{'s are' if masks > 1 else ' is'} left out")
    return Listing([Sample(path, GOOD) for path, _ in found.images], (), notes)


def _find(root: Path, names: FolderNames) -> _Found:
    found = _Found()
    for folder, files in walk(root):
        place = read_place(folder.relative_to(root).parts, names)
        images = [file for file in files if is_image(file)]
        if place.is_mask:
            outlines = [file for file in files if file.suffix.lower() == OUTLINES_SUFFIX]
            found.masks += [(mask, place) for mask in (*images, *outlines)]
            continue
        by_stem = {image.stem: image for image in images}
        for image in images:
            if (drawn := outlines_beside(image)) is not None:
                found.beside[image] = drawn
            of = next((by_stem[stem] for stem in _bare(image.stem) if stem in by_stem), None)
            if of is None:
                found.images.append((image, place))
            else:
                found.beside[of] = image
    return found


def _divide(
    root: Path, samples: dict[str, list[tuple[Path, str]]]
) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]], list[str]]:
    """Divide the images into those to train on and those to test on, with notes."""
    good = samples["good "]
    held_out = samples["good test"]
    bad = samples["bad "] + samples["bad test"]
    notes = []
    if bad and good and not (samples["good train"] or held_out):
        good, held_out = split(good, lambda item: item[0].relative_to(root).as_posix())
        notes.append(
            SPLIT_NOTE.format(what="good images", name="paths")
            + "; to train on all of them, name their own folder"
        )
    if unused := len(samples["bad train"]):
        notes.append(f"{unused} defective training images are left out")
    if unused := len(samples["good validation"] + samples["bad validation"]):
        notes.append(f"{unused} images of validation are left out")
    labels = Counter(label for _, label in bad)
    if labels:
        counts = some([f"{label} ({n})" for label, n in sorted(labels.items())])
        notes.append(f"defective images: {counts}")
    test = sorted(held_out + bad, key=lambda item: (item[1] != GOOD, item[1]))
    return samples["good train"] + good, test, notes


def _match(root: Path, found: _Found, defective: set[Path]) -> dict[Path, Path]:
    """Match masks to defective images; those beside an image need no matching."""
    by_stem: defaultdict[str, list[tuple[Path, tuple[str, ...]]]] = defaultdict(list)
    for path, place in found.images:
        by_stem[path.stem].append((path, place.key))
    masks = {path: mask for path, mask in found.beside.items() if path in defective}
    empty: list[tuple[Path, Path]] = [
        (mask, path) for path, mask in found.beside.items() if path not in defective
    ]
    for mask, place in found.masks:
        fitting: list[Path] = []
        for stem in (mask.stem, *_bare(mask.stem)):
            fitting = fitting or _nearest(by_stem[stem], place.key, defective)
        if not fitting:
            raise DataError(
                f"{mask}: no image in {root} belongs to this mask; give it the name of its image, "
                "or remove it"
            )
        if len(fitting) > 1:
            raise DataError(
                f"{mask}: the mask fits {fitting[0]} and {fitting[1]}; put it in a folder of the "
                "same name as its image's"
            )
        if fitting[0] not in defective:
            empty.append((mask, fitting[0]))
        elif (other := masks.setdefault(fitting[0], mask)) != mask:
            raise DataError(f"{fitting[0]}: has two masks, {other} and {mask}; remove one")
    for mask, path in empty:
        if not is_blank(mask):
            raise DataError(
                f"{mask}: shows a defect, but {path} is in a folder of good images; move the image "
                "to the defective ones, or remove the mask"
            )
    return masks


def _nearest(
    images: Iterable[tuple[Path, tuple[str, ...]]], key: tuple[str, ...], defective: set[Path]
) -> list[Path]:
    """Choose among images of a mask's name: defective ones, of a folder of its folder's name."""
    images = list(images)
    same = [path for path, of in images if of == key]
    ends = [path for path, of in images if of[len(of) - len(key) :] == key]
    groups = ([path for path in group if path in defective] for group in (same, ends))
    return next(filter(None, (*groups, same, ends)), [])


def _bare(stem: str) -> list[str]:
    """Return what is left of a name without an ending that masks have."""
    return [
        stem[: -len(ending)]
        for ending in _MASK_ENDINGS
        if stem.casefold().endswith(ending) and len(stem) > len(ending)
    ]
