"""How a model looks at an image: where it looks, and how the part is laid under its eye.

One `View` belongs to each model. It makes the network's input from an image, says which cells lie
where defects matter, and brings a map back to the image as it came.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.images import ImageSource, PathLike, as_image, image_shape, source_name
from cflow_ad.errors import DataError, ImageError, SettingsError
from cflow_ad.scoring.alignment import Motion, Reference
from cflow_ad.scoring.canvas import Canvas, Cell, Shape, Sizing, cells_inside
from cflow_ad.scoring.foreground import find_foreground
from cflow_ad.scoring.image_regions import (
    ImageRegions,
    RegionFiles,
    RegionFolder,
    open_region,
    open_regions,
)
from cflow_ad.scoring.region import Region, RegionSource

Mask = NDArray[np.bool_]


class Seen(NamedTuple):
    """A map in the image as it came, and where it holds."""

    values: NDArray[np.float32]
    """Shape `(H, W)`, 0 outside."""

    inside: Mask | None
    """Shape `(H, W)`; None where all of the image was looked at."""


class ViewSettings(Protocol):
    """What a view needs of a model's settings."""

    @property
    def sizing(self) -> Sizing:
        """How images come into the network."""

    @property
    def foreground(self) -> str:
        """``auto`` to look only at what stands out from a plain background, else ``none``."""

    @property
    def align(self) -> str:
        """``none``, ``shift`` or ``rigid``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Where a model looks. With only a sizing, everywhere.

    Where it is more than one of these, defects matter where all agree. A region and a reference go
    together: the region lies still in the reference's frame.
    """

    sizing: Sizing
    """How images come into the network."""

    region: Region | None = None
    """Of every image."""

    regions: ImageRegions | None = None
    """Of each image its own."""

    foreground: bool = False
    """Look only at what stands out from a plain background."""

    reference: Reference | None = None
    """What parts are aligned to."""

    @classmethod
    def of(
        cls,
        settings: ViewSettings,
        sources: Sequence[ImageSource],
        *,
        roi: RegionSource | None = None,
        own: RegionFiles | None = None,
    ) -> View:
        """The view of a model that is to be fitted.

        Args:
            settings: of the model.
            sources: the images it is fitted to, at least one.
            roi: a mask, polygons, a folder of masks or a manifest; see `Region.read` and
                `open_regions`.
            own: the regions that the images' data set has of its own; then `roi` must be unset.

        Raises:
            DataError: the region or an image cannot be used.
            SettingsError: there are two regions of one image.
        """
        if own is not None and roi is not None:
            raise _two_regions(own)
        region = own if roi is None else open_region(roi, image_shape(sources[0]))
        reference = None
        if settings.align != "none":
            reference = Reference.choose(sources, turns=settings.align == "rigid")
        return cls(
            sizing=settings.sizing,
            region=region if isinstance(region, Region) else None,
            regions=None if isinstance(region, Region) else region,
            foreground=settings.foreground == "auto",
            reference=reference,
        )

    @property
    def is_whole(self) -> bool:
        """Whether every image is looked at as it comes, all of it."""
        return not (self.region or self.regions or self.foreground or self.reference)

    @property
    def needs_pixels(self) -> bool:
        """Whether where it looks depends on what is in an image."""
        return self.foreground or self.reference is not None

    def with_masks(self, folder: PathLike) -> View:
        """The same, with a folder of masks, or a manifest that lists them, for the images to come.

        Raises:
            DataError: the manifest cannot be read, or has no regions.
            SettingsError: there is no such folder.
        """
        regions = open_regions(folder)
        if regions is None:
            raise SettingsError(
                f"{folder}: here --roi is a folder with a mask for each image, or a manifest with "
                "the column roi; a region for all images is given in training and kept in the model"
            )
        return dataclasses.replace(self, regions=regions)

    def with_own(self, own: RegionFiles | None) -> View:
        """The same, with the regions that a data set has of its own, if it has any.

        Raises:
            SettingsError: a folder of masks, or another region of one of the images, was given.
        """
        if own is None:
            return self
        if isinstance(self.regions, RegionFiles):
            own = self.regions.joined(own)
        elif self.regions is not None and self.regions.folder is not None:
            raise _two_regions(own)
        return dataclasses.replace(self, regions=own)

    def prepare(self, source: ImageSource) -> Canvas:
        """Make the network's input.

        Args:
            source: as for `as_image`.

        Raises:
            ImageError: the image cannot be used, or nothing of it lies where defects matter.
        """
        image = as_image(source)
        if self.is_whole:
            return self.sizing.prepare(image)
        name = source_name(source)
        motion = self.reference.motion_of(image, name) if self.reference else None
        brought = image if motion is None else motion.bring(image)
        canvas = self.sizing.prepare(brought)
        inside = self._inside(source, canvas.original, motion)
        if self.foreground and (part := find_foreground(brought)) is not None:
            inside = part if inside is None else inside & part
        _require_some(inside, name)
        return dataclasses.replace(canvas, inside=inside, motion=motion)

    def cells_of(self, source: ImageSource, cells: Callable[[Shape], Sequence[Cell]]) -> list[Mask]:
        """Which cells of each level lie in the image and where defects matter, `(h, w)` each.

        Args:
            source: as for `as_image`.
            cells: for the height and width of a canvas, those of each level's cells.

        Raises:
            ImageError: as for `prepare`.
        """
        if self.needs_pixels:
            canvas = self.prepare(source)
            return [cells_of(canvas.inside, canvas.valid, size) for size in cells(canvas.shape)]
        original = image_shape(source)
        inside = self._inside(source, original, None)
        _require_some(inside, source_name(source))
        valid = self.sizing.valid_shape(original)
        sizes = cells(self.sizing.canvas_shape(original))
        return [cells_of(inside, valid, size) for size in sizes]

    def _inside(self, source: ImageSource, shape: Shape, motion: Motion | None) -> Mask | None:
        """Where defects matter, in the reference's frame, as far as regions say."""
        parts = []
        if self.region is not None:
            parts.append(self.region.inside(shape, source_name(source)))
        if self.regions is not None:
            mask = self.regions.inside(source, shape)
            if mask is not None:
                parts.append(mask if motion is None else motion.bring_mask(mask))
        if motion is not None:
            parts.append(motion.seen(shape))
        return np.logical_and.reduce(parts) if parts else None

    def fingerprint(self) -> str:
        """What tells this view from others with the same settings; empty where nothing does."""
        if self.is_whole:
            return ""
        digest = hashlib.sha256()
        for name, picture in self.pictures().items():
            digest.update(name.encode() + picture)
        if self.regions is not None:
            digest.update(self.regions.fingerprint().encode())
        return digest.hexdigest()

    def metadata(self) -> dict[str, Any]:
        """What a model says of its view, as plain values."""
        both = self.region is not None and self.regions is not None
        one = "one" if self.region is not None else "none"
        return {"regions": "both" if both else one if self.regions is None else "each"}

    def pictures(self) -> dict[str, bytes]:
        """The region and the reference, as PNG files, which `restore` reads."""
        found = {}
        if self.region is not None:
            found["region"] = self.region.to_png()
        if self.reference is not None:
            found["reference"] = self.reference.to_png()
        return found

    @classmethod
    def restore(
        cls,
        settings: ViewSettings,
        metadata: Mapping[str, Any],
        pictures: Mapping[str, bytes],
    ) -> View:
        """The view of a model that is loaded.

        Args:
            settings: of the model.
            metadata: from `View.metadata`; empty for a model older than it.
            pictures: from `View.pictures`.

        Raises:
            KeyError: a picture is missing.
            ValueError: a picture is damaged.
        """
        regions = metadata.get("regions", "none")
        reference = None
        try:
            if settings.align != "none":
                turns = settings.align == "rigid"
                reference = Reference.from_png(pictures["reference"], turns=turns)
            region = Region.from_png(pictures["region"]) if regions in ("one", "both") else None
        except (OSError, DataError) as error:
            raise ValueError(f"a picture in it is damaged: {error}") from error
        return cls(
            sizing=settings.sizing,
            region=region,
            regions=RegionFolder(None) if regions in ("each", "both") else None,
            foreground=settings.foreground == "auto",
            reference=reference,
        )


def settle(canvas: Canvas, values: NDArray[np.float32]) -> Seen:
    """A map of what was looked at, brought back to the image as it came.

    Args:
        canvas: that the map is of.
        values: shape `canvas.original`, 0 and above.
    """
    inside = canvas.inside
    if inside is None and canvas.motion is None:
        return Seen(values, None)
    if inside is None:
        inside = np.ones(canvas.original, np.bool_)
    values = np.where(inside, values, np.float32(0))
    if canvas.motion is not None:
        inside = canvas.motion.give_back(inside)
        values = np.where(inside, canvas.motion.give_back(values), np.float32(0))
    return Seen(values, inside)


def cells_of(inside: Mask | None, valid: Shape, cell: Cell) -> Mask:
    """Which cells of a level matter: those whose value a pixel that matters is scored by, which
    are the ones that have one within a cell's side of their centre, along rows and columns.

    Args:
        inside: where defects matter, of any resolution; None is everywhere.
        valid: height and width of the image on its canvas.
        cell: height and width of one, in pixels of the canvas.

    Returns:
        Shape `(h, w)`, of the cells whose centre lies in the image.

    >>> cells_of(np.arange(64) < np.full((8, 1), 20), (8, 64), (8, 8)).tolist()
    [[True, True, True, False, False, False, False, False]]
    """
    grid = cells_inside(valid[0], cell[0]), cells_inside(valid[1], cell[1])
    if inside is None:
        return _all_cells(grid)
    # On a grid of half cells a cell's reach is four of them along either side.
    half = (2 * grid[0], 2 * grid[1])
    touched = np.asarray(inside)
    for axis in (0, 1):
        step = valid[axis] * 2 / (cell[axis] * touched.shape[axis])  # half cells in a pixel
        edges = np.arange(half[axis] + 2) - 1
        start = np.floor(edges / step).astype(int)
        stop = np.ceil((edges + 1) / step).astype(int)
        last = touched.shape[axis]
        start, stop = start.clip(0, last - 1), stop.clip(1, last)
        if axis == 0:
            sums = np.pad(np.cumsum(touched, 0, dtype=np.int32), ((1, 0), (0, 0)))
            touched = (sums[stop] - sums[start]) > 0
        else:
            sums = np.pad(np.cumsum(touched, 1, dtype=np.int32), ((0, 0), (1, 0)))
            touched = (sums[:, stop] - sums[:, start]) > 0
    reached: Mask = np.zeros(grid, np.bool_)
    for down in range(4):
        for right in range(4):
            reached |= touched[down : down + half[0] : 2, right : right + half[1] : 2]
    return reached


@lru_cache(maxsize=256)
def _all_cells(grid: Shape) -> Mask:
    """One array for all images of a size, of which there may be many."""
    cells = np.ones(grid, np.bool_)
    cells.setflags(write=False)
    return cells


def _two_regions(own: RegionFiles) -> SettingsError:
    return SettingsError(
        f"{own.name}: its images have regions of interest of their own; leave out --roi, or remove "
        "the column roi"
    )


def _require_some(inside: Mask | None, name: str) -> None:
    if inside is not None and not inside.any():
        raise ImageError(
            f"{name or 'the image'}: nothing of it lies in the region of interest; draw the region "
            "where the part is"
        )
