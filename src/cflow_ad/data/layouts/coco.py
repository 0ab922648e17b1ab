"""A COCO file that lists the images of a data set, with outlines of the defects.

::

    PARTS/annotations/instances_default.json  PARTS/images/*
    PARTS/train/_annotations.coco.json        PARTS/train/*
    PARTS/parts.json                          PARTS/*

An image is where its `file_name` says, seen from the file, or is the one whose path below the
file's folder (the one above `annotations`) is the longest end of it. Without annotations it is
good, and so are categories named by a word for good. A defect has the name of its category, or
`combined` where an image has several. Where the name of the file, or of its folder, has the word
*test*, all images are tested on; where it has *train*, good ones are trained on.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cflow_ad.data.coco import Marked, is_coco, read_coco
from cflow_ad.data.layouts.below import FilesBelow
from cflow_ad.data.layouts.dataset import GOOD, Sample
from cflow_ad.data.layouts.reading import SPLIT_NOTE, Layout, Listing, split
from cflow_ad.data.layouts.words import is_good_name, kind_of_name
from cflow_ad.data.masks import OUTLINES_SUFFIX
from cflow_ad.errors import DataError


def _read(file: Path) -> Listing:
    root = file.parent
    if kind_of_name(root.name) == "masks":  # annotations
        root = root.parent
    below = FilesBelow(root)
    samples: list[Sample] = []
    names: dict[Path, str] = {}
    for name, marked in read_coco(file).items():
        beside = Path(os.path.normpath(file.parent / name))
        path = beside if beside.is_file() else below.find(name)
        if path is not None:
            samples.append(_sample(path, marked))
            names[path] = name
    below.require_all(file, "the images")
    if not samples:
        raise DataError(f"{file}: no images are listed")
    good = [sample for sample in samples if sample.is_good]
    bad = [sample for sample in samples if not sample.is_good]
    notes = [f"images without annotations are taken as good: {len(good)}"] if good else []
    if boxes := sum(sample.mask is None for sample in bad):
        notes.append(f"defective images with a box alone have no mask: {boxes}")
    words = re.split(r"[\W_]+", file.stem)
    kinds = {kind_of_name(word) for word in (*words, file.parent.name)}
    if "test" in kinds:
        return Listing([], good + bad, notes, root, file.stem)
    held_out: list[Sample] = []
    if bad and "train" not in kinds:
        good, held_out = split(good, lambda sample: names[sample.path])
        notes.append(SPLIT_NOTE.format(what="good images", name="paths"))
    return Listing(good, held_out + bad, notes, root, file.stem)


def _sample(path: Path, marked: Marked) -> Sample:
    labels = [label for label in marked.labels if not is_good_name(label)]
    if not labels:
        return Sample(path, GOOD)
    mask = None if marked.has_boxes else marked.outlines
    return Sample(path, labels[0] if len(labels) == 1 else "combined", mask)


COCO = Layout(
    "coco",
    lambda path: path.suffix.lower() == OUTLINES_SUFFIX and path.is_file() and is_coco(path),
    _read,
    "list images without annotations",
    "give the file of the test images",
)
