"""Regions of interest of images that have one each: listed in a manifest, or in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cflow_ad.data.images import ImageSource, PathLike, source_name
from cflow_ad.data.layouts import Dataset, open_dataset
from cflow_ad.data.masks import read_region
from cflow_ad.errors import DataError, ImageError, SettingsError
from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.region import Mask, Region, RegionSource


@dataclass(frozen=True, eq=False)
class RegionFiles:
    """A mask for each image: from a list, or from a folder.

    In a folder, the mask of `parts/a/1.jpg` is the first there is of `parts/a/1.png`, `a/1.png` and
    `1.png`. With neither, a model is known to need masks and none were given yet.
    """

    masks: Mapping[Path, Path | None] = field(default_factory=dict)
    """The mask of each listed image, by the image's `place`; None is the whole image."""

    folder: Path | None = None
    """The masks of images that are not listed."""

    name: str = ""
    """What the images are listed in, for an error."""

    _image_of: dict[Path, Path] = field(default_factory=dict)

    def inside(self, source: ImageSource, shape: Shape) -> Mask | None:
        """Read the region of one image, of height and width `shape`; None is the whole image.

        The image is a path, or computed from one.

        Raises:
            SettingsError: No masks were given.
            ImageError: The image has no mask, or shares one with another image, or its mask cannot
                be read or is empty.
            MaskError: The mask does not fit the image.
        """
        if not self.masks and self.folder is None:
            raise SettingsError(
                "the model was trained with a region of interest for each image: give a folder "
                "with the masks of these, with --roi FOLDER, or list them in a manifest's column "
                "roi"
            )
        name = source_name(source)
        if not name:
            raise ImageError(
                "an image from memory has no region of interest of its own; give its path",
                code="image.region",
            )
        image = place(Path(name))
        path = self.masks.get(image)
        if image not in self.masks:
            path = self._in_folder(image)
        return None if path is None else read_region(path, shape)

    def _in_folder(self, image: Path) -> Path:
        if self.folder is None:
            raise ImageError(
                f"{image}: {self.name} does not list it, so its region of interest is not known; "
                "add it there, or give a folder of masks with --roi FOLDER",
                code="image.region",
                name=str(image),
            )
        *parts, _ = image.parts[1:]  # without the root
        name = f"{image.stem}.png"
        candidates = (self.folder.joinpath(*parts[n:], name) for n in range(len(parts) + 1))
        path = next(filter(Path.is_file, candidates), None)
        if path is None:
            raise ImageError(
                f"{image}: no region of interest; put its mask at {self.folder / name}, or at "
                f"{Path(*parts[-1:], name)} in that folder where names repeat",
                code="image.region",
                name=str(image),
            )
        if place(path) == image:
            raise ImageError(
                f"{image}: in {self.folder} it would be its own region of interest; give a folder "
                "that holds masks alone",
                code="image.region",
                name=str(image),
            )
        if (other := self._image_of.setdefault(path, image)) != image:
            raise ImageError(
                f"{path}: this mask has the name of both {other} and {image}; put one for each in "
                f"sub-folders of the names of theirs, such as {Path(*parts[-1:], name)}",
                code="image.region",
                name=str(image),
            )
        return path

    def fingerprint(self) -> str:
        """Hash the images' names and the bytes of all masks."""
        masks = [(image.name, mask) for image, mask in sorted(self.masks.items())]
        if self.folder is not None:
            masks += [
                (path.relative_to(self.folder).as_posix(), path)
                for path in sorted(self.folder.rglob("*.png"))
            ]
        digest = hashlib.sha256()
        for name, mask in masks:
            content = mask.read_bytes() if mask is not None and mask.is_file() else b""
            digest.update(f"{name} {len(content)} ".encode("utf-8", "surrogateescape") + content)
        return digest.hexdigest()


def regions_of(dataset: Dataset) -> RegionFiles | None:
    """Return the regions that a data set lists for its images; None where it lists none."""
    samples = (*dataset.train, *dataset.test)
    if all(sample.roi is None for sample in samples):
        return None
    return RegionFiles({place(sample.path): sample.roi for sample in samples}, name=dataset.name)


def open_regions(path: PathLike) -> RegionFiles | None:
    """Open a folder of masks, or a manifest's regions; return None where it is neither.

    Raises:
        DataError: The manifest cannot be read, or has no regions.
    """
    path = Path(path)
    if path.is_dir():
        return RegionFiles(folder=path)
    if not (path.is_file() and path.suffix.lower() == ".csv"):
        return None
    regions = regions_of(open_dataset(path, "manifest"))
    if regions is None:
        raise DataError(f"{path}: it gives no image a region of interest; add a column roi")
    return regions


def open_region(source: RegionSource, shape: Shape) -> Region | RegionFiles:
    """Open whatever `open_regions` or `Region.read` takes."""
    regions = None if isinstance(source, np.ndarray) else open_regions(source)
    return Region.read(source, shape) if regions is None else regions


def place(image: Path) -> Path:
    """Return an image's absolute path; a link to an image keeps its own name."""
    return image.parent.resolve() / image.name
