"""DAGM 2007: ``Train`` and ``Test``, with the defective images' masks in ``Label``.

Defective training images are left out. The masks are rough ellipses, by its makers' choice.
"""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Sample
from cflow_ad.data.layouts.reading import Layout, Listing, left_out, read_samples, refuse_strays

_LABEL, _ENDING = "Label", "_label"


def _read(root: Path) -> Listing:
    train, notes = left_out(_read_part(root / "Train"))
    return Listing(train, _read_part(root / "Test"), notes)


def _read_part(folder: Path) -> list[Sample]:
    labels = [sample.path for sample in read_samples(folder / _LABEL)]
    masks = {mask.stem.removesuffix(_ENDING): mask for mask in labels}
    samples = []
    for image in (sample.path for sample in read_samples(folder, recursive=False)):
        mask = masks.pop(image.stem, None)
        samples.append(Sample(image, GOOD if mask is None else "defect", mask))
    refuse_strays(list(masks.values()), folder)
    return samples


DAGM = Layout(
    "dagm",
    lambda root: any((root / part / _LABEL).is_dir() for part in ("Train", "Test")),
    _read,
    "put them in Train",
    "put them in Test, and masks of the defective ones in Test/Label",
)
