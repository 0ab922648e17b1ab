"""COCO files: which images there are, what kinds of defect they show, and where.

References:
    `images`, each with `file_name`, `height` and `width`; `annotations`, each with a `category_id`
    and a `segmentation`: polygons as flat lists of coordinates, or run lengths down the columns, as
    numbers or as text; `categories`, each with a `name`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.annotations import (
    UNREADABLE,
    Outlines,
    Patch,
    Polygon,
    check_polygons,
    keys_of,
    load_json,
)
from cflow_ad.errors import DataError


class Marked(NamedTuple):
    """What a COCO file says of one image."""

    labels: tuple[str, ...]
    """The names of the categories of its annotations, sorted; none where it has no annotations."""

    outlines: Outlines

    has_boxes: bool
    """Whether something is marked by a box alone, so that the outlines are not all."""


def read_coco(path: Path) -> dict[str, Marked]:
    """Read a COCO file, by the images' file names.

    Raises:
        DataError: It cannot be read, or lists an image twice.
    """
    found = load_json(path)
    try:
        names = {each["id"]: str(each["name"]) for each in found.get("categories", [])}
        of_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in found["images"]}
        for annotation in found["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        marked: dict[str, Marked] = {}
        for image in found["images"]:
            name = str(image["file_name"])
            if name in marked:
                raise ValueError(f"{name} is listed twice")
            shape = int(image["height"]), int(image["width"])
            marked[name] = _read_image(of_image[image["id"]], names, shape, path)
    except UNREADABLE as error:
        raise DataError(f"{path}: no COCO file, or a damaged one ({error})") from error
    return marked


def is_coco(path: Path) -> bool:
    """Return whether a file is of COCO, with annotations."""
    return {"images", "annotations"} <= keys_of(path)


def _read_image(
    annotations: Sequence[dict[str, Any]], names: dict[Any, str], shape: tuple[int, int], path: Path
) -> Marked:
    polygons: list[Polygon] = []
    patches: list[Patch] = []
    has_boxes = False
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            patches.append(Patch(0, 0, _runs(segmentation)))
        elif segmentation:
            polygons += [_pairs(flat) for flat in segmentation]
        else:
            has_boxes = True
    check_polygons(polygons, path)
    labels = {names.get(annotation.get("category_id"), "defect") for annotation in annotations}
    outlines = Outlines(path, shape, tuple(polygons), tuple(patches))
    return Marked(tuple(sorted(labels)), outlines, has_boxes)


def _pairs(flat: Sequence[float]) -> Polygon:
    if len(flat) % 2:
        raise ValueError("a polygon with an odd number of coordinates")
    return [(float(x), float(y)) for x, y in zip(flat[::2], flat[1::2], strict=True)]


def _runs(segmentation: dict[str, Any]) -> NDArray[np.bool_]:
    """Decode run lengths: of unmarked and marked pixels in turn, down one column after another."""
    height, width = map(int, segmentation["size"])
    counts = segmentation["counts"]
    lengths = _run_lengths(counts) if isinstance(counts, str) else [int(n) for n in counts]
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        raise ValueError("run lengths that do not fill the image")
    marked = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return marked.reshape(width, height).T


def _run_lengths(text: str) -> list[int]:
    """Decode COCO's text: 5 bits a character, and from the third on differences to two before."""
    lengths: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            digit = ord(text[position]) - 48
            value |= (digit & 0x1F) << shift
            more = bool(digit & 0x20)
            position += 1
            shift += 5
            if not more and digit & 0x10:
                value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
    return lengths
