"""What a data set is: images with labels and masks, some to train on, others to test on."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cflow_ad.data.annotations import Outlines
from cflow_ad.data.images import image_shape
from cflow_ad.data.masks import MaskFiles, check_mask
from cflow_ad.errors import DataError, ImageError

GOOD = "good"
"""The label of an image without defects."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set."""

    path: Path
    """The image file."""

    label: str
    """``"good"``, or the defect's name."""

    mask: Path | MaskFiles | Outlines | None = None
    """The ground-truth mask, where there is one; `read_mask` reads it. Good images have none."""

    roi: Path | None = None
    """The mask of the region of interest, where there is one; unset, the whole image counts."""

    @property
    def is_good(self) -> bool:
        """Whether the image is without defects."""
        return self.label == GOOD


@dataclass(frozen=True)
class Dataset:
    """Images with labels, split into training and test."""

    root: Path
    """The folder that the images' names are relative to."""

    name: str
    """The data set's name, for reports."""

    train: tuple[Sample, ...]
    """The images to train on, all good. May be empty."""

    test: tuple[Sample, ...]
    """The images to test on, good and defective. May be empty."""

    layout: str
    """The name of the layout on disk; one of `LAYOUTS`."""

    notes: tuple[str, ...] = ()
    """What a reader of results should know: images left out, or a split not the publisher's."""

    train_place: str = field(default="put them in train/good", repr=False, compare=False)
    """What to do where images to train on are missing, for the error."""

    test_place: str = field(
        default="put them in test/good and test/<defect>", repr=False, compare=False
    )
    """What to do where images to test on are missing, for the error."""

    @property
    def defects(self) -> tuple[str, ...]:
        """The names of the defects in `test`, sorted."""
        return tuple(sorted({s.label for s in self.test if not s.is_good}))

    def require_train(self) -> tuple[Sample, ...]:
        """Return `train`; raises a DataError if it is empty."""
        if not self.train:
            raise DataError(
                f"{self.root}: no good images to train on; {self.train_place}",
                code="training.no_images",
                folder=str(self.root),
            )
        return self.train

    def require_test(self) -> tuple[Sample, ...]:
        """Return `test`; raises a DataError if it is empty."""
        if not self.test:
            raise DataError(f"{self.root}: no images to evaluate on; {self.test_place}")
        return self.test

    def hash_images(self) -> list[str]:
        """Compute the `hash_file` of each training image."""
        return [hash_file(sample.path) for sample in self.train]

    def fingerprint(self, hashes: Sequence[str] | None = None) -> str:
        """Hash the training images, to 16 hexadecimal digits.

        The hash is a SHA-256 of each image's name relative to `root` and the bytes in it. Moving or
        copying the data set, or touching or reordering its files, does not change it; renaming,
        adding, removing or changing an image does.

        Args:
            hashes: What `hash_images` returns, where it is known.

        Raises:
            DataError: An image cannot be read.
        """
        hashes = self.hash_images() if hashes is None else hashes
        total = hashlib.sha256()
        for name, content in sorted(
            (self.relative(sample.path), of) for sample, of in zip(self.train, hashes, strict=True)
        ):
            total.update(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
            total.update(bytes.fromhex(content))
        return total.hexdigest()[:16]

    def relative(self, path: Path) -> str:
        """Return a file's name relative to `root`, with slashes; its own where it is elsewhere."""
        inside = path.is_relative_to(self.root)
        name = path.relative_to(self.root).as_posix() if inside else path.name
        return unicodedata.normalize("NFC", name)  # macOS spells accents another way


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of an image file's bytes, in hexadecimal digits.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: the image cannot be read ({error.strerror})") from error


def check_masks(samples: Iterable[Sample]) -> None:
    """Check by the files' headers that masks and regions are as large as their images.

    An image that cannot be read is skipped: scoring reports it.

    Raises:
        DataError: A mask or a region cannot be read, as far as its header shows it.
        MaskError: One has another size than its image.
    """
    for sample in samples:
        parts = [part for part in (sample.roi, sample.mask) if part is not None]
        try:
            shape = image_shape(sample.path) if parts else (0, 0)
        except ImageError:
            continue
        for part in parts:
            check_mask(part, shape)
