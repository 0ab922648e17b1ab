"""Write a data set of any layout in a form that other tools read.

::

    manifest   OUT/manifest.csv, OUT/masks/*.png          images and regions stay
    coco       OUT/train.json, OUT/test.json              images stay where they are
    mvtec      OUT/train/good, OUT/test/DEFECT, OUT/ground_truth/DEFECT/STEM_mask.png: copies

Only a manifest lists the images' regions of interest.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data.images import image_shape
from cflow_ad.data.layouts import Dataset, Sample
from cflow_ad.data.layouts.manifest import COLUMNS
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import SettingsError
from cflow_ad.files import claim, naming
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

    Masks are written as 8-bit PNG of 0 and 255, or as runs in COCO's JSON. Several masks of an
    image are united.

    Args:
        dataset: The data set.
        out: A folder that is empty or does not exist yet.
        format: ``manifest``, ``coco`` or ``mvtec``. In COCO's, every connected component of a mask
            is an annotation, its category the defect; a defective image without a mask has a box.
        progress: Called with the number of images done and the number in all.

    Returns:
        The files that were written, or the folder of copies.

    Raises:
        DataError: An image or a mask cannot be read, or `out` is not empty.
        SettingsError: There is no such format.
    """
    writers = {"manifest": _write_manifest, "coco": _write_coco, "mvtec": _copy}
    if format not in writers:
        raise SettingsError(f"format is {format!r}; it must be manifest, coco or mvtec")
    claim(out)
    with naming(out):
        return writers[format](dataset, out, progress)


def column_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Return COCO's run lengths of a mask: pixels off, on, off, ..., column by column.

    >>> column_runs(np.array([[0, 1], [1, 1]], bool))
    [1, 3]
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(np.diff(flat.astype(np.int8)))
    bounds = [0, *changes.tolist(), mask.size]
    return [stop - start for start, stop in pairwise(bounds)]


def _samples(dataset: Dataset, progress: Progress) -> Iterator[tuple[int, str, Sample]]:
    """Yield each sample with its number, from 0, and its split; report each when it is done."""
    parts = (("train", dataset.train), ("test", dataset.test))
    samples = [(split, sample) for split, part in parts for sample in part]
    for number, (split, sample) in enumerate(samples):
        yield number, split, sample
        progress(number + 1, len(samples))


def _write_manifest(dataset: Dataset, out: Path, progress: Progress) -> list[Path]:
    path = out / "manifest.csv"
    has_regions = any(sample.roi for sample in (*dataset.train, *dataset.test))
    columns = COLUMNS if has_regions else COLUMNS[:-1]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for number, split, sample in _samples(dataset, progress):
            mask = f"masks/{number:06d}.png" if sample.mask else ""
            _save_mask(sample, out / mask)
            roi = "" if sample.roi is None else _from(out, sample.roi)
            cells = (_from(out, sample.path), sample.label, mask, split, roi)
            writer.writerow(cells[: len(columns)])
    return [path]


def _write_coco(dataset: Dataset, out: Path, progress: Progress) -> list[Path]:
    number = {name: n for n, name in enumerate(dataset.defects, start=1)}
    categories = [{"id": n, "name": name} for name, n in number.items()]
    files: dict[str, dict[str, Any]] = {
        split: {"images": [], "annotations": [], "categories": categories}
        for split in ("train", "test")
    }
    for _, split, sample in _samples(dataset, progress):
        images, annotations = files[split]["images"], files[split]["annotations"]
        height, width = image_shape(sample.path)
        image = {"id": len(images) + 1, "file_name": _from(out, sample.path)}
        images.append(image | {"height": height, "width": width})
        if sample.is_good:
            continue
        whose = {"image_id": image["id"], "category_id": number[sample.label]}
        parts = [{"segmentation": [], "bbox": [0, 0, width, height], "area": height * width}]
        if sample.mask is not None:
            parts = _parts(read_mask(sample.mask, (height, width))) or parts
        for part in parts:
            annotations.append({"id": len(annotations) + 1, **whose, **part, "iscrowd": 0})
    for split, values in files.items():
        (out / f"{split}.json").write_text(json.dumps(values), encoding="utf-8")
    return [out / f"{split}.json" for split in files]


def _parts(mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return the segmentation, box and area of each connected component."""
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
            }
        )
    return parts


def _copy(dataset: Dataset, out: Path, progress: Progress) -> list[Path]:
    taken: set[Path] = set()
    for _, split, sample in _samples(dataset, progress):
        label = sample.label.replace("/", "-").replace("\\", "-")
        target = out / split / label / sample.path.name
        if target.with_suffix("") in taken:  # one name in several folders
            target = target.with_name("-".join(Path(dataset.relative(sample.path)).parts))
        taken.add(target.with_suffix(""))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample.path, target)
        _save_mask(sample, out / "ground_truth" / label / f"{target.stem}_mask.png")
    return [out]


def _save_mask(sample: Sample, path: Path) -> None:
    if sample.mask is not None:
        mask = read_mask(sample.mask, image_shape(sample.path))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def _from(folder: Path, path: Path) -> str:
    """A file's path relative to a folder, with slashes; absolute where they share no drive."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()
