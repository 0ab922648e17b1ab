"""Magnetic Tile: ``MT_Free/Imgs`` is good, ``MT_<Defect>/Imgs`` has images and masks side by side.

The images are JPEG; the mask of ``exp1_num_1.jpg`` is ``exp1_num_1.png``, and was smoothed, so that
only its bright half counts. The set has no split: see `family.split`.
"""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample
from cflow_ad.data.layouts.family import SPLIT_NOTE, Family, name_of, refuse_strays, split
from cflow_ad.data.listing import list_images, scan
from cflow_ad.data.masks import MaskFiles

_ABOVE = 127


def _is_here(root: Path) -> bool:
    return (root / "MT_Free" / "Imgs").is_dir()


def _read(root: Path) -> Dataset:
    good, _ = _images_and_masks(root / "MT_Free" / "Imgs")  # its masks are all black
    train, held_out = split(good, lambda image: image.name)
    test = [Sample(image, GOOD) for image in held_out]
    for folder in scan(root)[0]:
        if not folder.name.startswith("MT_") or folder.name == "MT_Free":
            continue
        images, found = _images_and_masks(folder / "Imgs")
        masks = {mask.stem: MaskFiles((mask,), above=_ABOVE) for mask in found}
        label = folder.name.removeprefix("MT_").lower()
        test += [Sample(image, label, masks.pop(image.stem, None)) for image in images]
        refuse_strays([path for mask in masks.values() for path in mask.files], folder / "Imgs")
    return Dataset(
        root,
        name_of(root),
        tuple(Sample(image, GOOD) for image in train),
        tuple(test),
        "magnetic-tile",
        (SPLIT_NOTE.format(what="defect-free images", name="file names"),),
    )


def _images_and_masks(folder: Path) -> tuple[list[Path], list[Path]]:
    there = list_images(folder)
    masks = [path for path in there if path.suffix.lower() == ".png"]
    return [path for path in there if path.suffix.lower() != ".png"], masks


MAGNETIC_TILE = Family("magnetic-tile", _is_here, _read)
