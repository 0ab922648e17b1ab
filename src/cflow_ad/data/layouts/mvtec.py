"""MVTec AD, every set that is laid out like it, and the MVTec sets that differ a little.

::

    mvtec       ROOT/train/good/*  ROOT/test/good/*  ROOT/test/DEFECT/*
                ROOT/ground_truth/DEFECT/STEM_mask.png
    btad        ROOT/train/ok/*  ROOT/test/ok/*  ROOT/test/ko/*  ROOT/ground_truth/ko/*
    mvtec-ad-2  ROOT/train/good/012_regular.png  ROOT/validation/good/*
                ROOT/test_public/good/003_shift_1.png  ROOT/test_public/bad/*
                ROOT/test_public/ground_truth/bad/007_overexposed_mask.png
    mvtec-loco  ROOT/train/good/*  ROOT/validation/good/*  ROOT/test/good/*
                ROOT/test/structural_anomalies/*  ROOT/test/logical_anomalies/*
                ROOT/ground_truth/structural_anomalies/007/000.png  001.png ...

MVTec AD 2 has a public test set under several lights, and private ones without labels. The masks
of an image in MVTec LOCO are united; every value but zero is defect. ``mvtec-loco`` leaves out the
logical anomalies, such as a missing part, which a method that scores patches is not made for;
``mvtec-loco-all`` takes both kinds.
"""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Sample
from cflow_ad.data.layouts.matching import match_masks
from cflow_ad.data.layouts.named import fits_named
from cflow_ad.data.layouts.reading import (
    Layout,
    Listing,
    by_stem,
    is_used,
    label_of,
    read_samples,
    refuse_strays,
)
from cflow_ad.data.listing import has_images, list_images, scan
from cflow_ad.data.masks import MaskFiles
from cflow_ad.errors import DataError

_STRUCTURAL, _LOGICAL = "structural_anomalies", "logical_anomalies"
_VALIDATION = "validation/good is left out; `cflow-ad calibrate` can set the threshold on it"


def _fits(root: Path) -> bool:
    train, test = root / "train", root / "test"
    if (train / GOOD).is_dir():
        return True
    return test.is_dir() and (
        not fits_named(root) or ((test / GOOD).is_dir() and not has_images(train))
    )


def _read(root: Path) -> Listing:
    for part, places in (("train", "train/good"), ("test", "test/good or test/<defect>")):
        if has_images(root / part):
            raise DataError(f"{root / part}: images lie there directly; move them to {places}")
    folders = scan(root / "test")[0] if (root / "test").is_dir() else []
    masks = match_masks(root / "ground_truth", root / "test", folders)
    test = [s for folder in folders for s in read_samples(folder, label_of(folder.name), masks)]
    return Listing(read_samples(root / "train" / GOOD), test)


def _fits_btad(root: Path) -> bool:
    return (root / "train" / "ok").is_dir() and not (root / "train" / GOOD).is_dir()


def _read_btad(root: Path) -> Listing:
    bad = root / "test" / "ko"
    masks = match_masks(root / "ground_truth", root / "test", [bad])
    test = read_samples(bad, "ko", masks) + read_samples(root / "test" / "ok")
    return Listing(read_samples(root / "train" / "ok"), test)


def _read_ad2(root: Path) -> Listing:
    public = root / "test_public"
    folders = [folder for folder in scan(public)[0] if folder.name != "ground_truth"]
    masks = match_masks(public / "ground_truth", public, folders)
    test = [
        Sample(image, _label_ad2(folder.name, image.stem), masks.get(image))
        for folder in filter(is_used, folders)
        for image in list_images(folder)
    ]
    notes = _note_validation(root)
    if any(root.glob("test_private*")):
        notes.append(
            "test_private and test_private_mixed are left out: their labels are not public"
        )
    return Listing(read_samples(root / "train" / GOOD), test, notes)


def _label_ad2(folder: str, stem: str) -> str:
    """``bad, overexposed``: a result for each light shows the effect of a change of light."""
    label, light = label_of(folder), stem.partition("_")[2]
    return label if label == GOOD or not light else f"{label}, {light}"


def _fits_loco(root: Path) -> bool:
    """Its masks lie one folder deeper than MVTec AD's."""
    truths = (root / "ground_truth" / kind for kind in (_STRUCTURAL, _LOGICAL))
    return any(scan(truth)[0] for truth in truths if truth.is_dir())


def _read_loco(root: Path, kinds: tuple[str, ...] = (_STRUCTURAL,)) -> Listing:
    notes = _note_validation(root)
    if _LOGICAL not in kinds and (root / "test" / _LOGICAL).is_dir():
        notes.append("logical anomalies are left out; --layout mvtec-loco-all takes them too")
    test: list[Sample] = []
    for kind in (*kinds, GOOD):
        test += read_samples(root / "test" / kind, kind, _masks_loco(root, kind))
    return Listing(read_samples(root / "train" / GOOD), test, notes)


def _masks_loco(root: Path, kind: str) -> dict[Path, MaskFiles]:
    truth, test = root / "ground_truth" / kind, root / "test" / kind
    images = by_stem(test)
    masks, strays = {}, []
    for folder in filter(is_used, scan(truth)[0] if truth.is_dir() else []):
        if image := images[folder.name]:
            masks[image[0]] = MaskFiles(tuple(list_images(folder)))
        else:
            strays.append(folder)
    refuse_strays(strays, test)
    return masks


def _note_validation(root: Path) -> list[str]:
    return [_VALIDATION] if (root / "validation" / GOOD).is_dir() else []


MVTEC = Layout("mvtec", _fits, _read)
BTAD = Layout(
    "btad", _fits_btad, _read_btad, "put them in train/ok", "put them in test/ok and test/ko"
)
MVTEC_AD2 = Layout(
    "mvtec-ad-2",
    lambda root: (root / "test_public").is_dir(),
    _read_ad2,
    test_place="put them in test_public/good and test_public/bad",
)
MVTEC_LOCO = Layout("mvtec-loco", _fits_loco, _read_loco)
MVTEC_LOCO_ALL = Layout(
    "mvtec-loco-all",
    lambda root: False,  # only where it is asked for
    lambda root: _read_loco(root, (_LOGICAL, _STRUCTURAL)),
)
