"""MVTec LOCO: anomalies of structure, and of logic, each with a folder of masks.

::

    ROOT/train/good/*  ROOT/validation/good/*
    ROOT/test/good/*   ROOT/test/structural_anomalies/*  ROOT/test/logical_anomalies/*
    ROOT/ground_truth/structural_anomalies/007/000.png  001.png ...

The masks of an image are united. Their values say which kind a defect is; all that are not zero
count. ``mvtec-loco`` leaves the logical anomalies out, such as a missing part, which a method that
looks at patches is not made for; ``mvtec-loco-all`` takes both kinds.
"""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample
from cflow_ad.data.layouts.family import Family, by_stem, is_used, name_of, refuse_strays
from cflow_ad.data.listing import list_images, scan
from cflow_ad.data.masks import MaskFiles

_STRUCTURAL, _LOGICAL = "structural_anomalies", "logical_anomalies"


def _is_here(root: Path) -> bool:
    """Told from MVTec AD's layout by masks that lie one folder deeper."""
    truths = (root / "ground_truth" / kind for kind in (_STRUCTURAL, _LOGICAL))
    return any(scan(truth)[0] for truth in truths if truth.is_dir())


def _read(root: Path, name: str, kinds: tuple[str, ...]) -> Dataset:
    notes = []
    if len(kinds) == 1 and (root / "test" / _LOGICAL).is_dir():
        notes.append("logical anomalies are left out; --layout mvtec-loco-all takes them too")
    if (root / "validation" / GOOD).is_dir():
        notes.append(
            "validation/good is left out; `cflow-ad calibrate` can set the threshold on it"
        )
    train = [Sample(image, GOOD) for image in list_images(root / "train" / GOOD)]
    test: list[Sample] = []
    for kind in (*kinds, GOOD):
        folder = root / "test" / kind
        if folder.is_dir() and is_used(folder):
            masks = _find_masks(root, kind)
            test += [Sample(image, kind, masks.get(image)) for image in list_images(folder)]
    return Dataset(root, name_of(root), tuple(train), tuple(test), name, tuple(notes))


def _find_masks(root: Path, kind: str) -> dict[Path, MaskFiles]:
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


MVTEC_LOCO = Family("mvtec-loco", _is_here, lambda root: _read(root, "mvtec-loco", (_STRUCTURAL,)))
MVTEC_LOCO_ALL = Family(
    "mvtec-loco-all",
    lambda root: False,  # has to be asked for
    lambda root: _read(root, "mvtec-loco-all", (_LOGICAL, _STRUCTURAL)),
)
