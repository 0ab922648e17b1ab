"""How a data set lies on disk: which images are good, which are not, and where their masks are.

Three layouts are read::

    mvtec      ROOT/train/good/*  ROOT/test/good/*  ROOT/test/DEFECT/*
               ROOT/ground_truth/DEFECT/STEM_mask.png  (or STEM.png)
    folder     FOLDER/*           or, if no image lies there, FOLDER/good/*: all are good
    manifest   FILE.csv           a line for each image: path, label, mask, split

Whatever would quietly change a result, such as a mask without an image, is an error.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from cflow_ad.data.images import IMAGE_SUFFIXES, PathLike, has_images, list_images, scan
from cflow_ad.errors import DataError

Layout: TypeAlias = Literal["mvtec", "folder", "manifest"]

GOOD = "good"
"""The label of an image without defects."""

_COLUMNS = ("path", "label", "mask", "split")
_EXPECTED = (
    "give a folder of good images, a folder with train/good and test/<defect> in it, "
    "or a .csv file that lists the images"
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set."""

    path: Path
    """The image file."""

    label: str
    """``"good"``, or the defect's name."""

    mask: Path | None = None
    """The ground-truth mask, where there is one. Good images have none."""

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
            where = {
                "mvtec": "put them in train/good",
                "folder": "put them in that folder",
                "manifest": "list good images whose split is train or empty",
            }[self.layout]
            raise DataError(f"{self.root}: no good images to train on; {where}")
        return self.train

    def require_test(self) -> tuple[Sample, ...]:
        """Return `test`, which is not empty.

        Raises:
            DataError: There is no image to evaluate on.
        """
        if not self.test:
            where = {
                "mvtec": "put them in test/good and test/<defect>",
                "folder": "put them in test/good and test/<defect>, and the good ones for "
                "training in train/good",
                "manifest": "list images whose split is test",
            }[self.layout]
            raise DataError(f"{self.root}: no images to evaluate on; {where}")
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
        for name, path in sorted((self._relative(s.path), s.path) for s in self.train):
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
            except OSError as error:
                raise DataError(f"{path}: the image cannot be read ({error.strerror})") from error
            total.update(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() + content)
        return total.hexdigest()[:16]

    def _relative(self, path: Path) -> str:
        inside = path.is_relative_to(self.root)
        name = path.relative_to(self.root).as_posix() if inside else path.name
        return unicodedata.normalize("NFC", name)  # macOS spells accents another way


def open_dataset(path: PathLike) -> Dataset:
    """Find out how a data set lies on disk, and list its images. No image is opened.

    A folder that has ``train/good`` or ``test`` in it is ``mvtec``, any other is ``folder``, and
    a ``.csv`` file is a ``manifest``: UTF-8, with a header naming ``path`` and ``label``, and if
    need be ``mask`` and ``split``. Its paths are relative to the file. A label that is empty or
    ``good`` means good; a split that is empty means ``train`` for good images and ``test`` for
    the others.

    In the MVTec layout only ``train/good`` is learnt from: other folders in ``train`` are left
    alone. A mask is an image of any suffix, and an image need not have one.

    Args:
        path: A folder, or a ``.csv`` file.

    Raises:
        DataError: Nothing usable lies there, or something that would quietly be left out, such
            as a mask without an image. The message names it and the way out.
    """
    path = Path(path)
    try:
        return _open(path)
    except OSError as error:
        raise DataError(f"{path}: this cannot be read ({error.strerror})") from error


def _open(path: Path) -> Dataset:
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return _open_manifest(path)
        what = "one image" if path.suffix.lower() in IMAGE_SUFFIXES else "no folder"
        raise DataError(f"{path}: this is {what}, not a data set; {_EXPECTED}")
    if not path.exists():
        raise DataError(f"{path}: there is no such folder or file; {_EXPECTED}")
    if (path / "train" / GOOD).is_dir() or (path / "test").is_dir():
        return _open_mvtec(path)
    return _open_folder(path)


# The MVTec layout


def _open_mvtec(root: Path) -> Dataset:
    train: list[Sample] = []
    if has_images(root / "train"):
        raise DataError(f"{root / 'train'}: images lie there directly; move them to train/good")
    if (root / "train" / GOOD).is_dir():
        train = [Sample(image, GOOD) for image in list_images(root / "train" / GOOD)]

    test: list[Sample] = []
    if (root / "test").is_dir():
        folders, _ = scan(root / "test")
        if has_images(root / "test"):
            raise DataError(
                f"{root / 'test'}: images lie there directly; move them to test/good or "
                "test/<defect>"
            )
        masks = _find_masks(root / "ground_truth", folders)
        for folder in filter(_is_used, folders):
            label = _label(folder.name)
            test += [Sample(i, label, masks.get(i)) for i in list_images(folder)]
    return Dataset(root, _name(root), tuple(train), tuple(test), "mvtec")


def _find_masks(ground_truth: Path, test_folders: list[Path]) -> dict[Path, Path]:
    """Match every mask to its image."""
    masks: dict[Path, Path] = {}
    if not ground_truth.is_dir():
        return masks
    if has_images(ground_truth):
        raise DataError(
            f"{ground_truth}: masks lie there directly; move them to ground_truth/<defect>"
        )
    named = {folder.name: folder for folder in test_folders}
    strays: list[Path] = []
    for mask_folder in filter(_is_used, scan(ground_truth)[0]):
        if _label(mask_folder.name) == GOOD:
            raise DataError(f"{mask_folder}: good images have no masks; remove that folder")
        if not has_images(mask_folder):
            raise DataError(
                f"{mask_folder}: no masks lie there directly; name them <stem>_mask.png, one for "
                "each image, or remove that folder"
            )
        images = _by_stem(named.get(mask_folder.name))
        for mask in list_images(mask_folder):
            candidates = images[mask.stem] or images[mask.stem.removesuffix("_mask")]
            if not candidates:
                strays.append(mask)
            elif len(candidates) > 1:
                raise DataError(
                    f"{mask}: the mask fits {candidates[0].name} and {candidates[1].name}; "
                    "give the images different names"
                )
            elif (other := masks.setdefault(candidates[0], mask)) != mask:
                raise DataError(f"{candidates[0]}: has two masks, {other} and {mask}; remove one")
    if strays:
        more = f" (and {len(strays) - 3} more)" if len(strays) > 3 else ""
        raise DataError(
            f"{', '.join(map(str, strays[:3]))}{more}: no image in {ground_truth.parent / 'test'} "
            "belongs to this mask; name it test/<defect>/<stem>, or remove the mask"
        )
    return masks


def _by_stem(folder: Path | None) -> defaultdict[str, list[Path]]:
    images: defaultdict[str, list[Path]] = defaultdict(list)
    for image in list_images(folder) if folder and _is_used(folder) else []:
        images[image.stem].append(image)
    return images


def _is_used(folder: Path) -> bool:
    """Say whether anything lies in a folder: an empty one can be left over from unpacking."""
    return any(scan(folder))


# A folder of good images


def _open_folder(root: Path) -> Dataset:
    folders, files = scan(root)
    images_in = root
    if not has_images(root):
        if has_images(root / GOOD):
            images_in = root / GOOD
        elif classes := [f.name for f in folders if (f / "train" / GOOD).is_dir()]:
            raise DataError(
                f"{root}: this holds several data sets ({_some(classes)}); name one of them"
            )
        elif has_images(root / "train"):
            raise DataError(
                f"{root / 'train'}: images lie there directly; move them to train/good, "
                "or name that folder itself"
            )
        elif not folders and not files:
            raise DataError(f"{root}: the folder is empty; {_EXPECTED}")
    samples = tuple(Sample(image, GOOD) for image in list_images(images_in))
    return Dataset(root, _name(root), samples, (), "folder")


# A manifest


def _open_manifest(file: Path) -> Dataset:
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    lines: dict[Path, int] = {}
    for line, row in _read_rows(file):
        where = f"{file}, line {line}"
        sample, split = _read_row(row, file.parent, where)
        if (first := lines.setdefault(sample.path, line)) != line:
            raise DataError(
                f"{where}: {row['path']} is on line {first} already; list each image once"
            )
        splits[split].append(sample)
    if not lines:
        raise DataError(f"{file}: no images are listed; add a line for each: path,label,mask,split")
    return Dataset(
        file.parent, file.stem, tuple(splits["train"]), tuple(splits["test"]), "manifest"
    )


def _read_rows(file: Path) -> Iterable[tuple[int, dict[str, str]]]:
    """Yield each line's number and its cells, stripped; a column that is not there is empty."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: this is not UTF-8; save it as CSV UTF-8") from error
    except OSError as error:
        raise DataError(f"{file}: the file cannot be read ({error.strerror})") from error
    head = text.partition("\n")[0]
    delimiter = ";" if ";" in head and "," not in head else ","  # spreadsheets in many languages
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        columns = [cell.strip().lower() for cell in next(reader, [])]
        _check_columns(columns, file)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(columns):
                raise DataError(
                    f"{file}, line {reader.line_num}: {len(cells)} cells under {len(columns)} "
                    "columns; put a path that has a comma in quotation marks"
                )
            row = dict.fromkeys(_COLUMNS, "")
            row.update(zip(columns, (cell.strip() for cell in cells), strict=False))
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: this is not CSV ({error})") from error


def _check_columns(columns: list[str], file: Path) -> None:
    known = ", ".join(_COLUMNS)
    for column in columns:
        if column not in _COLUMNS:
            raise DataError(f"{file}: unknown column {column!r}; the first line names {known}")
        if columns.count(column) > 1:
            raise DataError(f"{file}: the column {column!r} is there twice; remove one")
    for column in ("path", "label"):
        if column not in columns:
            raise DataError(f"{file}: no column {column!r}; the first line names {known}")


def _read_row(row: dict[str, str], root: Path, where: str) -> tuple[Sample, str]:
    label = _label(row["label"] or GOOD)
    split = row["split"].lower() or ("train" if label == GOOD else "test")
    if split not in ("train", "test"):
        raise DataError(f"{where}: the split is {row['split']!r}; write train or test")
    if split == "train" and label != GOOD:
        raise DataError(f"{where}: {label!r} is a defect, but only good images train; write test")
    if row["mask"] and label == GOOD:
        raise DataError(f"{where}: a good image has no mask; remove it, or name the defect")
    if not row["path"]:
        raise DataError(f"{where}: the path is empty; name an image file")
    image = _existing(row["path"], root, where)
    mask = _existing(row["mask"], root, where) if row["mask"] else None
    return Sample(image, label, mask), split


def _existing(text: str, root: Path, where: str) -> Path:
    path = Path(os.path.normpath(root / text))
    if not path.is_file():
        raise DataError(
            f"{where}: there is no file {path}; give its path relative to the folder that the "
            ".csv is in"
        )
    return path


# Names


def _label(name: str) -> str:
    return GOOD if name.lower() == GOOD else name


def _name(root: Path) -> str:
    """Name a data set after its folder, and ``bottle/train/good`` after the bottle."""
    resolved = root.resolve()
    parts = [part for part in resolved.parts[1:] if part not in ("train", GOOD)]
    return parts[-1] if parts else resolved.name


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
