"""Magnetic Tile: ``MT_Free/Imgs`` is good, ``MT_<Defect>/Imgs`` has images and masks side by side.

The images are JPEG; the mask of ``exp1_num_1.jpg`` is ``exp1_num_1.png``. The set has no split: see
`split`.
"""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Sample
from cflow_ad.data.layouts.reading import (
    SPLIT_NOTE,
    Layout,
    Listing,
    read_samples,
    refuse_strays,
    split,
)
from cflow_ad.data.listing import scan


def _read(root: Path) -> Listing:
    good, _ = _images_and_masks(root / "MT_Free" / "Imgs")  # its masks are all black
    train, held_out = split(good, lambda image: image.name)
    test = [Sample(image, GOOD) for image in held_out]
    for folder in scan(root)[0]:
        if not folder.name.startswith("MT_") or folder.name == "MT_Free":
            continue
        images, masks = _images_and_masks(folder / "Imgs")
        mask_of = {mask.stem: mask for mask in masks}
        label = folder.name.removeprefix("MT_").lower()
        test += [Sample(image, label, mask_of.pop(image.stem, None)) for image in images]
        refuse_strays(list(mask_of.values()), folder / "Imgs")
    note = SPLIT_NOTE.format(what="defect-free images", name="file names")
    return Listing([Sample(image, GOOD) for image in train], test, [note])


def _images_and_masks(folder: Path) -> tuple[list[Path], list[Path]]:
    there = [sample.path for sample in read_samples(folder, recursive=False)]
    masks = [path for path in there if path.suffix.lower() == ".png"]
    return [path for path in there if path.suffix.lower() != ".png"], masks


MAGNETIC_TILE = Layout("magnetic-tile", lambda root: (root / "MT_Free" / "Imgs").is_dir(), _read)
