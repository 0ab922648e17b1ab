"""Write a data set, in whatever layout it lies, in a form that other tools read.

::

    manifest   OUT/manifest.csv, OUT/masks/*.png          images and regions stay
    coco       OUT/train.json, OUT/test.json              images stay where they are
    mvtec      OUT/train/good, OUT/test/DEFECT, OUT/ground_truth/DEFECT/STEM_mask.png: copies

Only a manifest tells the images' regions of interest.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.files import claim
from cflow_ad.data.images import image_shape
from cflow_ad.data.layouts import Dataset, Sample
from cflow_ad.data.layouts.manifest import COLUMNS
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import SettingsError
from cflow_ad.scoring.components import label_runs

DatasetFormat: TypeAlias = Literal["manifest", "coco", "mvtec"]

Progress: TypeAlias = Callable[[int, int], None]


def export_dataset(
    dataset: Dataset,
    out: Path,
    format: DatasetFormat = "manifest",
    *,
    progress: Progress = lambda done, total: None,
) -> list[Path]:
    """Write a data set.

    Masks are written anew, as 8-bit PNG of 0 and 255, or as runs in COCO's JSON: united where an
    image has several, at the threshold that the set asks for.

    Args:
        dataset: what to write.
        out: a folder that is empty or does not exist yet.
        format: ``manifest``, ``coco`` or ``mvtec``. In COCO's, every connected part of a mask is an
            annotation, its category the defect; an image whose defect has no mask has none.
        progress: called with the number of images done and the number in all.

    Returns:
        What was written: the files, or the folder of copies.

    Raises:
        DataError: an image or a mask cannot be read, or `out` is not empty.
        SettingsError: there is no such format.
    """
    if format not in get_args(DatasetFormat):
        raise SettingsError(f"format is {format!r}; it must be manifest, coco or mvtec")
    claim(out)
    match format:
        case "manifest":
            return [_write_manifest(dataset, out, progress)]
        case "coco":
            return _write_coco(dataset, out, progress)
        case "mvtec":
            return [_copy(dataset, out, progress)]


def column_runs(mask: NDArray[np.bool_]) -> list[int]:
    """A mask as COCO counts it: pixels off, on, off and so on, down each column from the left.

    >>> column_runs(np.array([[0, 1], [1, 1]], bool))
    [1, 3]
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(np.diff(flat.astype(np.int8)))
    bounds = [0, *changes.tolist(), mask.size]
    return [stop - start for start, stop in pairwise(bounds)]


def _write_manifest(dataset: Dataset, out: Path, progress: Progress) -> Path:
    total, done = len(dataset.train) + len(dataset.test), 0
    path = out / "manifest.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        has_regions = any(sample.roi for sample in (*dataset.train, *dataset.test))
        columns = COLUMNS if has_regions else COLUMNS[:-1]
        writer.writerow(columns)
        for split, samples in (("train", dataset.train), ("test", dataset.test)):
            for sample in samples:
                mask = ""
                if sample.mask is not None:
                    mask = f"masks/{done:06d}.png"
                    _save_mask(sample, out / mask)
                roi = "" if sample.roi is None else _from(out, sample.roi)
                cells = (_from(out, sample.path), sample.label, mask, split, roi)
                writer.writerow(cells[: len(columns)])
                done += 1
                progress(done, total)
    return path


def _write_coco(dataset: Dataset, out: Path, progress: Progress) -> list[Path]:
    total, done = len(dataset.train) + len(dataset.test), 0
    categories = [{"id": n, "name": name} for n, name in enumerate(dataset.defects, start=1)]
    number = {str(category["name"]): category["id"] for category in categories}
    paths = []
    for split, samples in (("train", dataset.train), ("test", dataset.test)):
        images, annotations = [], list[dict[str, Any]]()
        for image_id, sample in enumerate(samples, start=1):
            height, width = image_shape(sample.path)
            images.append(
                {
                    "id": image_id,
                    "file_name": _from(out, sample.path),
                    "height": height,
                    "width": width,
                }
            )
            if sample.mask is not None:
                for part in _parts(read_mask(sample.mask, (height, width))):
                    whose = {"image_id": image_id, "category_id": number[sample.label]}
                    annotations.append({"id": len(annotations) + 1, **whose, **part})
            done += 1
            progress(done, total)
        values = {"images": images, "annotations": annotations, "categories": categories}
        paths.append(out / f"{split}.json")
        paths[-1].write_text(json.dumps(values), encoding="utf-8")
    return paths


def _parts(mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Each connected part as an annotation's segmentation, box and area."""
    runs = label_runs(mask)
    parts = []
    for number in range(runs.n_parts):
        here = runs.part == number
        rows, starts, stops = runs.row[here], runs.start[here], runs.stop[here]
        alone = np.zeros(mask.shape, np.bool_)
        for row, start, stop in zip(rows, starts, stops, strict=True):
            alone[row, start:stop] = True
        left, top = int(starts.min()), int(rows.min())
        parts.append(
            {
                "segmentation": {"size": list(mask.shape), "counts": column_runs(alone)},
                "bbox": [left, top, int(stops.max()) - left, int(rows.max()) + 1 - top],
                "area": int(alone.sum()),
                "iscrowd": 0,
            }
        )
    return parts


def _copy(dataset: Dataset, out: Path, progress: Progress) -> Path:
    total, done = len(dataset.train) + len(dataset.test), 0
    taken: set[Path] = set()
    for split, samples in (("train", dataset.train), ("test", dataset.test)):
        for sample in samples:
            label = sample.label.replace("/", "-").replace("\\", "-")
            target = out / split / label / sample.path.name
            if target.with_suffix("") in taken:  # one name in several folders, as of clips
                name = "-".join(Path(dataset.relative(sample.path)).parts)
                target = target.with_name(name)
            taken.add(target.with_suffix(""))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sample.path, target)
            if sample.mask is not None:
                _save_mask(sample, out / "ground_truth" / label / f"{target.stem}_mask.png")
            done += 1
            progress(done, total)
    return out


def _save_mask(sample: Sample, path: Path) -> None:
    assert sample.mask is not None
    mask = read_mask(sample.mask, image_shape(sample.path))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def _from(folder: Path, path: Path) -> str:
    """A file's path relative to a folder, with slashes; absolute where they share no drive."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()
