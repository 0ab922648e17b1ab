"""Manifests of Amazon Lookout for Vision, and of SageMaker Ground Truth as that service read them.

A line of a ``.manifest`` or ``.jsonl`` file is the JSON of an image::

    {"source-ref": "s3://bucket/parts/train/1.png", "anomaly-label": 1, "anomaly-label-metadata":
     {"class-name": "anomaly", "type": "groundtruth/image-classification"}}

The images have to be on this machine: each is the file whose path below the manifest's folder is
the longest end of its key. The class ``normal``, or any word for good, is good. A manifest whose
name has the word *test* is tested on; of any other, good images are trained on and the others are
tested on. Masks are left out: their colours are a class each, the background's too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cflow_ad.data.layouts.below import FilesBelow
from cflow_ad.data.layouts.dataset import Sample
from cflow_ad.data.layouts.reading import Layout, Listing, label_of
from cflow_ad.data.layouts.words import kind_of_name
from cflow_ad.errors import DataError

_SUFFIXES = (".manifest", ".jsonl")
_IMAGE, _MASK = "source-ref", "anomaly-mask-ref"


def _read(file: Path) -> Listing:
    there = FilesBelow(file.parent)
    samples: list[Sample] = []
    masks = 0
    for where, line in _lines(file):
        key = line.get(_IMAGE)
        if not isinstance(key, str):
            raise DataError(f"{where}: no {_IMAGE!r}, which names the image; export it again")
        masks += _MASK in line
        if (path := there.find(key)) is not None:
            samples.append(Sample(path, _label(line, where)))
    there.require_all(file, "the bucket's images")
    if not samples:
        raise DataError(f"{file}: no images are listed")
    is_test = any(kind_of_name(part) == "test" for part in (file.stem, *file.stem.split(".")))
    notes = [f"masks are left out: {masks}"] if masks else []
    train = [] if is_test else [sample for sample in samples if sample.is_good]
    test = samples if is_test else [sample for sample in samples if not sample.is_good]
    return Listing(train, test, notes, file.parent, file.stem)


def _lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: the manifest cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: this is not JSON ({error}); export it again") from error
        if not isinstance(values, dict):
            raise DataError(f"{where}: this is not a JSON object; export it again")
        yield where, values


def _label(line: Mapping[str, Any], where: str) -> str:
    """Read the class: of whatever label attribute has one for whole images."""
    for value in line.values():
        if isinstance(value, dict) and "image-classification" in str(value.get("type", "")):
            name = str(value.get("class-name", "")).strip()
            if name:
                return label_of(name)
    raise DataError(
        f"{where}: no class of the image; label it normal or anomaly, or remove the line"
    )


LOOKOUT = Layout(
    "lookout",
    lambda path: path.is_file() and path.suffix.lower() in _SUFFIXES,
    _read,
    "list images of the class normal",
    "give the manifest of the test images",
)
