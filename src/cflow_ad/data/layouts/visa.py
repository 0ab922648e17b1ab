"""VisA as it is published: a class's ``image_anno.csv``, and the set's ``split_csv/1cls.csv``.

::

    ROOT/split_csv/1cls.csv           object,split,label,image,mask
    ROOT/candle/image_anno.csv        image,label,mask       (paths are relative to ROOT)
    ROOT/candle/Data/Images/Normal/0000.JPG  ROOT/candle/Data/Masks/Anomaly/000.png

The mask's values are the numbers of kinds of defect; every value but zero is defect. The split is
that of ``1cls.csv``, VisA's own for training on good images; a defect's name is the annotation's,
or ``combined`` where an image has several.
"""

from __future__ import annotations

import os
from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Sample
from cflow_ad.data.layouts.reading import Layout, Listing
from cflow_ad.data.table import read_table
from cflow_ad.errors import DataError

_ANNOTATION = "image_anno.csv"


def _read(root: Path) -> Listing:
    # Not Path.resolve: a class may be a link to another disk.
    here = Path(os.path.abspath(root))  # noqa: PTH100
    split_file = here.parent / "split_csv" / "1cls.csv"
    if not split_file.is_file():
        raise DataError(
            f"{split_file}: this file is missing, and only it says which images are for training; "
            "copy split_csv from VisA's archive, beside the classes"
        )
    rows = read_table(root / _ANNOTATION, ["image", "label"])
    names = {row["image"]: row["label"] for _, row in rows}
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for line, row in read_table(split_file, ["object", "split", "label", "image", "mask"]):
        if row["object"] != here.name:
            continue
        where = f"{split_file}, line {line}"
        good = row["label"] == "normal"
        if row["split"] not in parts or (row["split"] == "train" and not good):
            raise DataError(
                f"{where}: {row['split']!r} with {row['label']!r} is no part of VisA's split; copy "
                "the file again from its archive"
            )
        image = _existing(root, row["image"], where)
        mask = _existing(root, row["mask"], where) if row["mask"] and not good else None
        label = GOOD if good else _label(names.get(row["image"], ""))
        parts[row["split"]].append(Sample(image, label, mask))
    if not any(parts.values()):
        raise DataError(
            f"{split_file}: lists no image of {here.name}; give the folder its name in VisA"
        )
    train, test = (sorted(parts[part], key=lambda s: s.path) for part in ("train", "test"))
    return Listing(train, test)


def _label(annotated: str) -> str:
    return "combined" if "," in annotated else annotated or "anomaly"


def _existing(root: Path, text: str, where: str) -> Path:
    path = root / Path(*Path(text).parts[1:])  # the first part is the class
    if not path.is_file():
        raise DataError(f"{where}: there is no file {path}; unpack the whole of VisA")
    return path


VISA = Layout("visa", lambda root: (root / _ANNOTATION).is_file(), _read)
