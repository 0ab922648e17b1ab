"""Regions of interest of images that have one each: in a folder, or as a manifest lists them.

Outside its region nothing of an image is learnt, scored or counted.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from cflow_ad.data.augmentation import Variant
from cflow_ad.data.images import ImageSource, PathLike, source_name
from cflow_ad.data.layouts import Dataset, open_dataset
from cflow_ad.data.listing import IMAGE_SUFFIXES
from cflow_ad.data.masks import read_region
from cflow_ad.errors import DataError, ImageError, SettingsError
from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.region import Mask, Region, RegionSource


@dataclass(frozen=True, eq=False)
class RegionFolder:
    """A mask for each image, in a folder.

    The mask of `a/b/7.png` is `FOLDER/a/b/7.png`, else `FOLDER/b/7.png`, else `FOLDER/7.png`; it
    may end in `_mask`, and have any lossless suffix.
    """

    folder: Path | None
    """None where a model is known to need masks and none were given yet."""

    _used: dict[Path, Path] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inside(self, source: ImageSource, shape: Shape) -> Mask:
        """The region of one image.

        Args:
            source: the image; a path.
            shape: its height and width.

        Returns:
            Shape `(H, W)`.

        Raises:
            SettingsError: no folder was given.
            ImageError: the image has no mask, or shares it with another image.
            MaskError: the mask does not fit the image.
        """
        if self.folder is None:
            raise SettingsError(
                "the model was trained with a region of interest for each image: give a folder "
                "with the masks of these, with --roi FOLDER, or list them in a manifest's column "
                "roi"
            )
        image = _path_of(source)
        path = self._find(image)
        with self._lock:
            other = self._used.setdefault(path, image)
        if other != image:
            raise ImageError(
                f"{path}: this mask fits both {other} and {image}; put each into a sub-folder "
                "named after its image's folder"
            )
        return read_region(path, shape)

    def _find(self, image: Path) -> Path:
        assert self.folder is not None
        parents = [part for part in image.parent.parts if part not in ("/", "..", ".")]
        for depth in range(min(2, len(parents)), -1, -1):
            folder = self.folder.joinpath(*parents[len(parents) - depth :])
            for stem in (image.stem, f"{image.stem}_mask"):
                for suffix in (".png", *sorted(IMAGE_SUFFIXES)):
                    if (found := folder / f"{stem}{suffix}").is_file():
                        return found
        raise ImageError(
            f"{image}: no mask in {self.folder} has its name; put one there for each image"
        )

    def fingerprint(self) -> str:
        """Of the names and bytes of all masks."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")) if self.folder else ():
            if path.is_file():
                digest.update(f"{path.name} {path.stat().st_size} ".encode())
                digest.update(path.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class RegionFiles:
    """A mask file for each image that is listed, or none: then all of the image is looked at."""

    masks: Mapping[Path, Path | None]
    """By the image's `place`."""

    name: str
    """What the images are listed in, for an error."""

    def inside(self, source: ImageSource, shape: Shape) -> Mask | None:
        """The region of one image.

        Args:
            source: the image; a path.
            shape: its height and width.

        Returns:
            Shape `(H, W)`, or None for all of the image.

        Raises:
            ImageError: the image is not listed, or its mask cannot be read or is empty.
            MaskError: the mask does not fit the image.
        """
        image = _path_of(source)
        if (where := place(image)) not in self.masks:
            raise ImageError(
                f"{image}: {self.name} does not list it, so its region of interest is not known; "
                "add it there, or give a folder of masks with --roi FOLDER"
            )
        mask = self.masks[where]
        return None if mask is None else read_region(mask, shape)

    def joined(self, others: RegionFiles) -> RegionFiles:
        """The images listed in either.

        Raises:
            SettingsError: an image has one region here and another there.
        """
        for image, mask in others.masks.items():
            if self.masks.get(image, mask) != mask:
                raise SettingsError(
                    f"{image}: {self.name} gives it another region of interest than "
                    f"{others.name}; leave one of them out"
                )
        return RegionFiles({**self.masks, **others.masks}, others.name)

    def fingerprint(self) -> str:
        """Of the images' names and the bytes of all masks."""
        digest = hashlib.sha256()
        for image, mask in sorted(self.masks.items()):
            content = mask.read_bytes() if mask is not None and mask.is_file() else b""
            digest.update(f"{image.name} {len(content)} ".encode("utf-8", "surrogateescape"))
            digest.update(content)
        return digest.hexdigest()


ImageRegions: TypeAlias = RegionFolder | RegionFiles


def regions_of(dataset: Dataset) -> RegionFiles | None:
    """The regions that a data set's images have of their own; None where not one of them has."""
    samples = (*dataset.train, *dataset.test)
    if all(sample.roi is None for sample in samples):
        return None
    return RegionFiles({place(sample.path): sample.roi for sample in samples}, dataset.name)


def open_regions(path: PathLike) -> ImageRegions | None:
    """The regions in a folder of masks, or of a manifest; None where it is neither.

    Raises:
        DataError: the manifest cannot be read, or has no regions.
    """
    path = Path(path)
    if path.is_dir():
        return RegionFolder(path)
    if not (path.is_file() and path.suffix.lower() == ".csv"):
        return None
    regions = regions_of(open_dataset(path, "manifest"))
    if regions is None:
        raise DataError(f"{path}: it gives no image a region of interest; add a column roi")
    return regions


def open_region(source: RegionSource, shape: Shape) -> Region | ImageRegions:
    """What `open_regions` or `Region.read` takes."""
    regions = None if isinstance(source, np.ndarray) else open_regions(source)
    return Region.read(source, shape) if regions is None else regions


def place(image: Path) -> Path:
    """An image's path in the one way of writing it; a link goes by its own name."""
    return image.parent.resolve() / image.name


def _path_of(source: ImageSource) -> Path:
    """An image's path; a variant is looked at where the image is that it is of."""
    if isinstance(source, Variant):
        return _path_of(source.source)
    name = source_name(source)
    if not name:
        raise ImageError("an image from memory has no region of interest of its own; give its path")
    return Path(name)
