"""Where in an image defects matter, and how parts are aligned, for one model.

A `View` makes the network's input from an image, says which cells lie where defects matter, and
brings a map back to the frame of the original image.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.images import (
    AS_STORED,
    ImageSource,
    PathLike,
    as_image,
    image_shape,
    source_name,
)
from cflow_ad.errors import DataError, ImageError, SettingsError
from cflow_ad.scoring.alignment import Reference
from cflow_ad.scoring.canvas import Canvas, Shape, Sizing
from cflow_ad.scoring.cells import Cell, cells_of
from cflow_ad.scoring.foreground import find_foreground
from cflow_ad.scoring.image_regions import RegionFiles, open_region, open_regions
from cflow_ad.scoring.motion import Motion
from cflow_ad.scoring.region import Mask, Region, RegionSource

if TYPE_CHECKING:
    from cflow_ad.settings import Settings


class MapInFrame(NamedTuple):
    """A map in the frame of the original image, and where it is valid."""

    values: NDArray[np.float32]
    """Shape `(H, W)`, 0 outside."""

    inside: Mask | None
    """Shape `(H, W)`; None for the whole image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Where defects matter: where `region`, `regions` and `foreground` agree.

    With only a sizing, they matter everywhere. Regions lie in the reference's frame.
    """

    sizing: Sizing
    """How images are resized."""

    region: Region | None = None
    """One region for all images."""

    regions: RegionFiles | None = None
    """A region for each image."""

    foreground: bool = False
    """Whether only what differs from a plain background matters."""

    reference: Reference | None = None
    """The image that parts are aligned to."""

    reading: Reading = AS_STORED
    """How images are read, where they do not say it."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        sources: Sequence[ImageSource],
        *,
        roi: RegionSource | None = None,
        own: RegionFiles | None = None,
    ) -> View:
        """Build the view of a model that is to be fitted.

        Args:
            settings: Of the model.
            sources: The images it is trained on, at least one: no validation or calibration image,
                since the reference is chosen among them.
            roi: A mask, polygons, a folder of masks or a manifest; see `Region.read` and
                `open_regions`.
            own: The regions that the images' data set lists; then `roi` must be unset.

        Raises:
            DataError: The region or an image cannot be used.
            SettingsError: There are two regions of one image.
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
            reading=settings.reading,
        )

    @property
    def is_whole(self) -> bool:
        """Whether defects matter everywhere, and no part is aligned."""
        return not (self.region or self.regions or self.foreground or self.reference)

    def with_masks(self, folder: PathLike) -> View:
        """Return this view with a folder of masks, or a manifest that lists them.

        Raises:
            DataError: The manifest cannot be read, or has no regions.
            SettingsError: There is no such folder.
        """
        regions = open_regions(folder)
        if regions is None:
            raise SettingsError(
                f"{folder}: here --roi is a folder with a mask for each image, or a manifest with "
                "the column roi; a region for all images is given in training and kept in the model"
            )
        return dataclasses.replace(self, regions=regions)

    def with_own(self, own: RegionFiles | None) -> View:
        """Return this view with the regions that a data set lists; itself where it lists none.

        Raises:
            SettingsError: A folder of masks was given too.
        """
        if own is None:
            return self
        if self.regions is not None and self.regions.folder is not None:
            raise _two_regions(own)
        return dataclasses.replace(self, regions=own)

    def prepare(self, source: ImageSource) -> Canvas:
        """Build the network's input from an image.

        Raises:
            ImageError: The image cannot be used, or defects matter nowhere in it.
        """
        image = as_image(source, self.reading)
        if self.is_whole:
            return self.sizing.prepare(image)
        name = source_name(source)
        motion = self.reference.motion_of(image, name) if self.reference else None
        aligned = image if motion is None else motion.bring(image)
        canvas = self.sizing.prepare(aligned)
        inside = self._inside(source, canvas.original, motion)
        if self.foreground and (part := find_foreground(aligned)) is not None:
            inside = part if inside is None else inside & part
        _require_some(inside, name)
        return dataclasses.replace(canvas, inside=inside, motion=motion)

    def cells_of(self, source: ImageSource, cells: Sequence[Cell]) -> list[Mask]:
        """Return which cells of each level lie in the image and where defects matter.

        Args:
            source: As for `prepare`.
            cells: The size of each level's cells.

        Returns:
            Shape `(h, w)` each.

        Raises:
            ImageError: As for `prepare`.
        """
        if self.foreground or self.reference:  # defects matter where the pixels show it
            canvas = self.prepare(source)
            inside, valid = canvas.inside, canvas.valid
        else:
            original = image_shape(source, self.reading)
            inside = self._inside(source, original, None)
            _require_some(inside, source_name(source))
            valid = self.sizing.valid_shape(original)
        return [cells_of(inside, valid, cell) for cell in cells]

    def _inside(self, source: ImageSource, shape: Shape, motion: Motion | None) -> Mask | None:
        """Where the regions agree, in the reference's frame; None is everywhere."""
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
        """Hash what the settings do not say of this view; empty where that is nothing."""
        if self.is_whole:
            return ""
        digest = hashlib.sha256()
        for name, picture in self.pictures().items():
            digest.update(name.encode() + picture)
        if self.regions is not None:
            digest.update(self.regions.fingerprint().encode())
        return digest.hexdigest()

    def metadata(self) -> dict[str, Any]:
        """Return, as JSON, which regions there are: ``none``, ``one``, ``each`` or ``both``; and
        how bright the good images are, see `Reading.brightness`.
        """
        of_all, of_each = self.region is not None, self.regions is not None
        which = {(True, True): "both", (True, False): "one", (False, True): "each"}
        brightness = self.reading.brightness
        return {
            "regions": which.get((of_all, of_each), "none"),
            **({} if brightness is None else {"brightness": list(brightness)}),
        }

    def pictures(self) -> dict[str, bytes]:
        """Return the region and the reference as PNG files, which `restore` reads."""
        found = {}
        if self.region is not None:
            found["region"] = self.region.to_png()
        if self.reference is not None:
            found["reference"] = self.reference.to_png()
        return found

    @classmethod
    def restore(
        cls, settings: Settings, metadata: Mapping[str, Any], pictures: Mapping[str, bytes]
    ) -> View:
        """Build the view of a model that is loaded, from what `metadata` and `pictures` returned.

        Raises:
            KeyError: An entry or a picture is missing.
            ValueError: A picture is damaged.
        """
        regions, brightness = metadata["regions"], metadata.get("brightness")
        if brightness is not None:
            brightness = float(brightness[0]), float(brightness[1])
        region = reference = None
        try:
            if settings.align != "none":
                turns = settings.align == "rigid"
                reference = Reference.from_png(pictures["reference"], turns=turns)
            if regions in ("one", "both"):
                region = Region.from_png(pictures["region"])
        except (OSError, DataError) as error:
            raise ValueError(f"a picture in it is damaged: {error}") from error
        return cls(
            sizing=settings.sizing,
            region=region,
            regions=RegionFiles() if regions in ("each", "both") else None,
            foreground=settings.foreground == "auto",
            reference=reference,
            reading=dataclasses.replace(settings.reading, brightness=brightness),
        )


def settle(canvas: Canvas, values: NDArray[np.float32]) -> MapInFrame:
    """Bring a map, of shape `canvas.original`, back to the frame of the original image."""
    inside = canvas.inside
    if inside is None and canvas.motion is None:
        return MapInFrame(values, None)
    if inside is None:
        inside = np.ones(canvas.original, np.bool_)
    values = np.where(inside, values, np.float32(0))
    if canvas.motion is not None:
        inside = canvas.motion.give_back(inside)
        values = np.where(inside, canvas.motion.give_back(values), np.float32(0))
    return MapInFrame(values, inside)


def _two_regions(own: RegionFiles) -> SettingsError:
    return SettingsError(
        f"{own.name}: its images have regions of interest of their own; leave out --roi, or remove "
        "the column roi"
    )


def _require_some(inside: Mask | None, name: str) -> None:
    if inside is not None and not inside.any():
        raise ImageError(
            f"{name or 'the image'}: no pixel of it lies in the region of interest; draw the "
            "region where the part is",
            code="image.small",
            name=name,
        )
