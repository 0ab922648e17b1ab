"""DAGM 2007: ``Train`` and ``Test``, with the defective images' masks in ``Label``.

Defective training images are left out. The masks are rough ellipses, by its makers' choice.
"""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample
from cflow_ad.data.layouts.family import Family, name_of, refuse_strays
from cflow_ad.data.listing import has_images, list_images

_LABEL, _ENDING = "Label", "_label"


def _is_here(root: Path) -> bool:
    return any((root / part / _LABEL).is_dir() for part in ("Train", "Test"))


def _read(root: Path) -> Dataset:
    train = _read_part(root / "Train")
    good = tuple(sample for sample in train if sample.is_good)
    left_out = len(train) - len(good)
    notes = (f"{left_out} defective training images are left out",) if left_out else ()
    return Dataset(
        root,
        name_of(root),
        good,
        tuple(_read_part(root / "Test")),
        "dagm",
        notes,
        train_place="put them in Train",
        test_place="put them in Test, and masks of the defective ones in Test/Label",
    )


def _read_part(folder: Path) -> list[Sample]:
    if not has_images(folder):
        return []
    labels = list_images(folder / _LABEL) if has_images(folder / _LABEL) else []
    masks = {mask.stem.removesuffix(_ENDING): mask for mask in labels}
    samples = []
    for image in list_images(folder):
        mask = masks.pop(image.stem, None)
        samples.append(Sample(image, GOOD if mask is None else "defect", mask))
    refuse_strays(list(masks.values()), folder)
    return samples


DAGM = Family("dagm", _is_here, _read)
