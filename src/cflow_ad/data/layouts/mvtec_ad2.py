"""MVTec AD 2: a public test set under several lights, and private ones without labels.

::

    ROOT/train/good/012_regular.png        ROOT/validation/good/*
    ROOT/test_public/good/003_shift_1.png  ROOT/test_public/bad/*
    ROOT/test_public/ground_truth/bad/007_overexposed_mask.png
    ROOT/test_private/*  ROOT/test_private_mixed/*
"""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample
from cflow_ad.data.layouts.family import Family, is_used, label_of, match_masks, name_of
from cflow_ad.data.listing import list_images, scan


def _is_here(root: Path) -> bool:
    return (root / "test_public").is_dir()


def _read(root: Path) -> Dataset:
    public = root / "test_public"
    folders = [f for f in scan(public)[0] if f.name != "ground_truth" and is_used(f)]
    masks = match_masks(public / "ground_truth", public, folders)
    test = [
        Sample(image, _label(folder.name, image.stem), masks.get(image))
        for folder in folders
        for image in list_images(folder)
    ]
    good = root / "train" / GOOD
    train = [Sample(image, GOOD) for image in list_images(good)] if good.is_dir() else []
    notes = []
    if (root / "validation" / GOOD).is_dir():
        notes.append(
            "validation/good is left out; `cflow-ad calibrate` can set the threshold on it"
        )
    if any(root.glob("test_private*")):
        notes.append(
            "test_private and test_private_mixed are left out: their labels are not public"
        )
    return Dataset(
        root,
        name_of(root),
        tuple(train),
        tuple(test),
        "mvtec-ad-2",
        tuple(notes),
        test_place="put them in test_public/good and test_public/bad",
    )


def _label(folder: str, stem: str) -> str:
    """``bad, overexposed``: a figure for each light shows what a change of light costs."""
    label, light = label_of(folder), stem.partition("_")[2]
    return label if label == GOOD or not light else f"{label}, {light}"


MVTEC_AD2 = Family("mvtec-ad-2", _is_here, _read)
