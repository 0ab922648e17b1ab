"""The good images that a model is fitted to or calibrated on: a folder, a data set or arrays."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.excluding import find_excluded
from cflow_ad.data.images import ImageSource, as_image, read_as, source_name
from cflow_ad.data.layouts import Dataset, check_masks, open_dataset
from cflow_ad.data.layouts.dataset import hash_file
from cflow_ad.errors import DataError
from cflow_ad.scoring.image_regions import RegionFiles, regions_of

GoodData: TypeAlias = str | os.PathLike[str] | Dataset | Sequence[ImageSource]


@dataclass(frozen=True, slots=True, eq=False)
class GoodImages:
    """Good images, at least one."""

    sources: list[ImageSource]
    name: str
    """Of the data set."""
    fingerprint: str
    """Equal where names and content of all images are equal."""
    names: list[str]
    """Of the images, relative to the data set; those from memory are numbered from 1."""
    hashes: list[str]
    """Of each image: of its file's bytes, or of its pixels where it is from memory."""
    excluded: dict[str, str]
    """Names and hashes of the images left out."""
    regions: RegionFiles | None = None
    """Regions of interest that the data set lists; None where it lists none."""

    def read_as(self, reading: Reading) -> GoodImages:
        """Say how the images are read."""
        sources: list[ImageSource] = [read_as(source, reading) for source in self.sources]
        return dataclasses.replace(self, sources=sources)


def find_good_images(data: GoodData, exclude: Sequence[str] = ()) -> GoodImages:
    """Find the good images.

    Args:
        data: a folder, a manifest, a `Dataset` (its `train`), or images as for `as_image`.
        exclude: names of images to leave out, as for `find_excluded`.

    Raises:
        DataError: there are no images, or all are excluded, or one cannot be read, or a name in
            `exclude` is not that of exactly one image, or a region of interest does not fit.
    """
    if isinstance(data, str | os.PathLike):
        data = open_dataset(data)
    if isinstance(data, Dataset):
        samples, root = data.require_train(), data.root
        out = find_excluded([sample.path for sample in samples], root, exclude)
        kept = [number for number in range(len(samples)) if number not in out]
        _require_some(kept, data.name)
        check_masks([samples[i] for i in kept])
        names = [_relative(sample.path, root) for sample in samples]
        hashes = data.hash_images()
        of_kept = [hashes[i] for i in kept]
        without = dataclasses.replace(data, train=tuple(samples[i] for i in kept))
        return GoodImages(
            [samples[i].path for i in kept],
            data.name,
            without.fingerprint(of_kept),
            [names[i] for i in kept],
            [shorten_hash(of) for of in of_kept],
            {names[i]: shorten_hash(hashes[i]) for i in sorted(out)},
            regions=regions_of(data),
        )
    sources = list(data)
    if not sources:
        raise DataError("no good images to train on: the sequence is empty")
    names = [source_name(source) or f"image {n}" for n, source in enumerate(sources, start=1)]
    out = find_excluded([Path(name) for name in names], Path(), exclude)
    kept = [number for number in range(len(sources)) if number not in out]
    _require_some(kept, "the sequence")
    hashes = [_hash(source) for source in sources]
    return GoodImages(
        [sources[i] for i in kept],
        "images from memory",
        hash_all([hashes[i] for i in kept]),
        [names[i] for i in kept],
        [shorten_hash(hashes[i]) for i in kept],
        {names[i]: shorten_hash(hashes[i]) for i in sorted(out)},
    )


def _hash(source: ImageSource) -> str:
    if isinstance(source, str | os.PathLike):
        return hash_file(Path(source))
    pixels = as_image(source)
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def hash_all(digests: Sequence[str]) -> str:
    """Hash the hashes of images, in their order, to 16 hexadecimal digits."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def shorten_hash(digest: str) -> str:
    """Keep 48 bits of a hash, which two of a million images share with a chance of 1 in 500."""
    return digest[:12]


def _relative(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _require_some(kept: Sequence[object], name: str) -> None:
    if not kept:
        raise DataError(f"{name}: every good image is excluded; leave some to train on")
