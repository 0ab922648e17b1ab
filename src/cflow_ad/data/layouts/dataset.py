"""What a data set is: images with labels and masks, some to learn from, others to evaluate on."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cflow_ad.data.masks import MaskSource
from cflow_ad.errors import DataError

Layout: TypeAlias = str
"""A layout's name, as in `layouts.LAYOUTS`."""

GOOD = "good"
"""The label of an image without defects."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set."""

    path: Path
    """The image file."""

    label: str
    """``"good"``, or the defect's name."""

    mask: Path | MaskSource | None = None
    """The ground-truth mask, where there is one; `read_mask` reads it. Good images have none."""

    roi: Path | None = None
    """A mask that is not zero where to look; unset, at all of the image. See `data.regions`."""

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
    """What to call the data set in a report."""

    train: tuple[Sample, ...]
    """The images to learn from, all good. Empty if there are none."""

    test: tuple[Sample, ...]
    """The images to evaluate on, good and not. Empty if there are none."""

    layout: Layout
    """How the data set lies on disk."""

    notes: tuple[str, ...] = ()
    """What a reader of figures should know: a split not the publisher's, images left out."""

    train_place: str = field(default="put them in train/good", repr=False, compare=False)
    """What to do where images to learn from are missing, for the error that says so."""

    test_place: str = field(
        default="put them in test/good and test/<defect>", repr=False, compare=False
    )
    """What to do where images to evaluate on are missing."""

    @property
    def defects(self) -> tuple[str, ...]:
        """The names of the defects in `test`, sorted."""
        return tuple(sorted({s.label for s in self.test if not s.is_good}))

    @property
    def has_masks(self) -> bool:
        """Whether at least one image of `test` has a mask."""
        return any(sample.mask for sample in self.test)

    def require_train(self) -> tuple[Sample, ...]:
        """Return `train`, which is not empty.

        Raises:
            DataError: There is no image to learn from.
        """
        if not self.train:
            raise DataError(f"{self.root}: no good images to train on; {self.train_place}")
        return self.train

    def require_test(self) -> tuple[Sample, ...]:
        """Return `test`, which is not empty.

        Raises:
            DataError: There is no image to evaluate on.
        """
        if not self.test:
            raise DataError(f"{self.root}: no images to evaluate on; {self.test_place}")
        return self.test

    def fingerprint(self) -> str:
        """Say in 16 hexadecimal digits what the model learns from.

        A SHA-256 over the training images: their names relative to `root` and the bytes in each.
        Moving or copying the data set, and touching or reordering its files, keep it the same;
        renaming, adding, removing or changing an image does not. Files are read one at a time.

        Raises:
            DataError: An image cannot be read.
        """
        total = hashlib.sha256()
        for name, path in sorted((self.relative(s.path), s.path) for s in self.train):
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
            except OSError as error:
                raise DataError(f"{path}: the image cannot be read ({error.strerror})") from error
            total.update(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() + content)
        return total.hexdigest()[:16]

    def relative(self, path: Path) -> str:
        """A file's name relative to `root`, with slashes; its own name where it lies elsewhere."""
        inside = path.is_relative_to(self.root)
        name = path.relative_to(self.root).as_posix() if inside else path.name
        return unicodedata.normalize("NFC", name)  # macOS spells accents another way
