"""Image files and masks as arrays, on one scale that never depends on the image.

A pixel is a number from 0 (black) to 255 (white), whatever file it came from: the same pixel is
the same number in every image. 8-bit sources stay ``uint8``; 16-bit grey ones become ``float32``
on the same scale (divided by 257), which keeps all of their precision. 16-bit colour files are
read to 8 bits a channel, because that is as far as Pillow decodes them.
"""

from __future__ import annotations

import glob
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data._decode import check_size, finish, load, read_shape, reason, upright
from cflow_ad.errors import DataError, ImageError, MaskError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""The endings, in lower case, of the files that count as images."""

PathLike: TypeAlias = "str | os.PathLike[str]"
ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any] | MadeImage"


class MadeImage(ABC):
    """An image that is made when it is needed, and not kept."""

    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Height and width."""

    @abstractmethod
    def pixels(self) -> NDArray[Any]:
        """An array as for `as_image`."""


class MaskSource(Protocol):
    """A ground-truth mask that is not one file whose every value but zero is defect."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from."""

    def read(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Read it, as `read_mask` does."""

    def check(self, shape: tuple[int, int]) -> None:
        """See that it fits its image, as `check_mask` does."""


# Images


def read_image(path: PathLike) -> NDArray[Any]:
    """Read an image file as RGB, upright.

    Grey is repeated to three channels; palette, CMYK, YCbCr, LAB and HSV are converted;
    transparent pixels are composited on black; EXIF orientation is applied; of several frames the
    first is read.

    Args:
        path: A PNG, JPEG, BMP, TIFF or WebP file.

    Returns:
        Pixels, H x W x 3, from 0 to 255: ``uint8``, or ``float32`` for 16-bit grey.

    Raises:
        ImageError: The file is missing, a folder, empty, unreadable, not an image, damaged, cut
            short, larger than 500 megapixels, or has float pixels, which have no fixed white.
    """
    return read_image_and_mode(path)[0]


def read_image_and_mode(path: PathLike) -> tuple[NDArray[Any], str]:
    """As `read_image`, with the file's own pixel mode, as Pillow names it: ``L``, ``RGB``."""
    path = Path(path)
    image = load(path)
    return _to_rgb(image, str(path)), image.mode


def source_name(source: ImageSource) -> str:
    """A file's path; empty for an image from memory."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else ""


def as_image(source: ImageSource) -> NDArray[Any]:
    """Take an image from wherever the caller has it.

    Args:
        source: A path (see `read_image`); a Pillow image, treated as its file would be; or an
            array, H x W, H x W x 1, H x W x 3 (RGB) or H x W x 4 (RGBA), of ``uint8``, ``uint16``
            (white is 65535) or ``float32`` (white is 255).

    Returns:
        Pixels, H x W x 3, from 0 to 255, contiguous and writeable: ``uint8`` for 8-bit sources,
        else ``float32``. An array that is so already is returned itself, not copied.

    Raises:
        ImageError: The source cannot be used as an image; the message says why.

    >>> as_image(np.full((2, 3), 65535, np.uint16))[0, 0]
    array([255., 255., 255.], dtype=float32)
    """
    match source:
        case str() | os.PathLike():
            return read_image(source)
        case Image.Image():
            name = str(getattr(source, "filename", "") or "the Pillow image")
            finish(source, name)
            return _to_rgb(source, name)
        case np.ndarray():
            return _array_to_rgb(source)
        case MadeImage():
            return _array_to_rgb(source.pixels())
    raise ImageError(
        f"an image is a path, a Pillow image or a numpy array, not {type(source).__name__}; "
        "convert it to one of these"
    )


def image_shape(source: ImageSource) -> tuple[int, int]:
    """Height and width that `as_image` would give, without decoding a file's pixels.

    Args:
        source: as for `as_image`.

    Raises:
        ImageError: The source cannot be used, as far as its header shows it.
    """
    if isinstance(source, str | os.PathLike):
        return read_shape(Path(source))
    if isinstance(source, MadeImage):
        return source.shape()
    height, width, _ = as_image(source).shape
    return height, width


def read_mask(
    source: PathLike | MaskSource, shape: tuple[int, int], above: int | None = None
) -> NDArray[np.bool_]:
    """Read a ground-truth mask: whatever is not zero is defect.

    That reads 0/1 and 0/255 masks alike. In a colour mask any channel counts; alpha does not.
    EXIF orientation is applied, as it is to the image.

    Args:
        source: The mask file. Not a JPEG: its compression leaves values near, but not at, zero.
            Or a mask that reads itself, such as a `Sample` may have.
        shape: Height and width of the image that the mask belongs to, upright.
        above: Only values above this are defect, in the file's own scale. Of a file only.

    Returns:
        H x W, true where the defect is.

    Raises:
        ImageError: The file cannot be read.
        MaskError: The mask has another size than its image, or is no mask.
    """
    if not isinstance(source, str | os.PathLike):
        return source.read(shape)
    path = Path(source)
    image = load(path)
    if image.format == "JPEG":
        raise MaskError(
            f"{path}: a mask cannot be a JPEG, whose compression blurs zero; save it as PNG"
        )
    name = str(path)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)[..., None]
        if np.isnan(values).any():
            raise MaskError(f"{path}: the mask contains NaN; save it as 8-bit PNG")
    elif image.mode in ("1", "L"):
        values = np.asarray(image)[..., None]
    else:
        values = np.asarray(_convert(image, "RGBA", name))[..., :3]
    defect = values if above is None else values > above
    mask: NDArray[np.bool_] = np.ascontiguousarray(upright(np.any(defect, axis=2), image))
    _require_shape(path, mask.shape, shape)
    return mask


def check_mask(source: PathLike | MaskSource, shape: tuple[int, int]) -> None:
    """See that a mask is as large as its image, from its file's header alone.

    Args:
        source: As for `read_mask`.
        shape: As for `read_mask`.

    Raises:
        ImageError: The file cannot be read, as far as its header shows it.
        MaskError: The mask has another size than its image.
    """
    if isinstance(source, str | os.PathLike):
        _require_shape(source, image_shape(source), shape)
    else:
        source.check(shape)


def _require_shape(path: PathLike, found: tuple[int, ...], shape: tuple[int, int]) -> None:
    if found != tuple(shape):
        raise MaskError(
            f"{path}: the mask is {found[0]} x {found[1]} pixels (height x width) but its image is "
            f"{shape[0]} x {shape[1]}; give a mask of the image's own size"
        )


# Folders


def list_images(folder: PathLike, recursive: bool = False) -> list[Path]:
    """List the images in a folder in natural order: ``2.png`` before ``10.png``.

    Hidden files and folders are passed over, macOS's ``._*`` files among them.

    Args:
        folder: Where to look.
        recursive: Look in sub-folders too.

    Returns:
        At least one path, each beginning with `folder`.

    Raises:
        DataError: The folder is missing, not a folder, unreadable, or has no images; in that
            case the message says what is there instead.
    """
    folder = Path(folder)
    subfolders, files = scan(folder)
    images = _images(files)
    if recursive:
        pending, seen = list(reversed(subfolders)), {folder.resolve()}
        while pending:
            below = pending.pop()
            if (resolved := below.resolve()) in seen:  # a link back up
                continue
            seen.add(resolved)
            more_folders, more_files = scan(below)
            pending += reversed(more_folders)
            files += more_files
            images += _images(more_files)
    if not images:
        looked_for = " ".join(sorted(IMAGE_SUFFIXES))
        there = _whats_there(subfolders, files)
        raise DataError(f"{folder}: no images there (looked for {looked_for}); {there}")
    return images


def find_images(names: Iterable[str], recursive: bool = False) -> list[Path]:
    """Find the images that a person named on a command line.

    Args:
        names: Files, folders, or patterns with ``*``, ``?`` or ``[`` (``**`` for sub-folders). A
            file is taken whatever its ending.
        recursive: Look in sub-folders of folders too.

    Returns:
        At least one path, in the order named; no file twice, however it is named.

    Raises:
        DataError: A folder has no images, a pattern fits nothing, or a name is empty.
    """
    found: list[Path] = []
    for name in names:
        if not name:  # of an unset shell variable; to Path it would be the current folder
            raise DataError("an empty name was given; name image files, folders or patterns")
        path = Path(name)
        if path.is_dir():
            found += list_images(path, recursive)
        elif not path.exists() and glob.has_magic(name):
            matches = glob.glob(name, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute one)
            fitting = _images(map(Path, matches))
            if not fitting:
                raise DataError(f"{name}: no image has a name of this pattern")
            found += sorted(fitting, key=lambda path: _natural(str(path)))
        else:
            found.append(path)
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(path.parent.resolve() / path.name, path)
    return list(once.values())


def scan(folder: PathLike) -> tuple[list[Path], list[Path]]:
    """List what is in a folder and not hidden.

    Args:
        folder: Where to look.

    Returns:
        Its sub-folders and its other files, each in natural order.

    Raises:
        DataError: The folder is missing, not a folder, or unreadable.
    """
    folder = Path(folder)
    try:
        with os.scandir(folder) as found:
            entries = [(e.name, e.is_dir()) for e in found if not e.name.startswith(".")]
    except FileNotFoundError as error:
        raise DataError(f"{folder}: there is no such folder; check the path") from error
    except NotADirectoryError as error:
        raise DataError(f"{folder}: this is a file; name the folder that it lies in") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: the folder cannot be read ({reason(error)})") from error
    entries.sort(key=lambda entry: _natural(entry[0]))
    return (
        [folder / name for name, is_folder in entries if is_folder],
        [folder / name for name, is_folder in entries if not is_folder],
    )


def has_images(folder: PathLike) -> bool:
    """Say whether at least one image lies directly in a folder.

    Args:
        folder: Where to look. One that is missing or unreadable has none.
    """
    try:
        return bool(_images(scan(folder)[1]))
    except DataError:
        return False


def _images(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Compare digits as numbers, text without regard to case, and the name itself last."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(p), "") if p.isascii() and p.isdigit() else (-1, p) for p in parts], name


def _whats_there(subfolders: list[Path], files: list[Path]) -> str:
    hint = next(filter(has_images, subfolders), None)
    if hint is not None and not _images(files):
        return f"there are some in its sub-folders, such as {hint.name}; name one of those"
    if not files:
        return "it has only sub-folders" if subfolders else "it is empty"
    counts = Counter(file.suffix.lower() for file in files).most_common(3)
    kinds = [f"{n} {kind or 'suffixless'} file{'s' * (n > 1)}" for kind, n in counts]
    rest = len(files) - sum(n for _, n in counts)
    return "it has only " + ", ".join(kinds) + (f" and {rest} more" if rest else "")


# From a Pillow image or an array to RGB on the scale 0..255


def _to_rgb(image: Image.Image, name: str) -> NDArray[Any]:
    mode = image.mode
    if mode == "F":
        nan = ", and this one contains NaN" if np.isnan(np.asarray(image)).any() else ""
        raise ImageError(
            f"{name}: float images have no fixed white{nan}; convert it to 8 or 16 bit"
        )
    if mode == "I" or mode.startswith("I;16"):
        pixels = _grey16_to_rgb(image, name)
    elif image.has_transparency_data:
        pixels = _on_black(np.asarray(_convert(image, "RGBA", name)))
    elif mode in ("1", "L"):
        pixels = np.asarray(image.convert("L"))[..., None].repeat(3, axis=2)
    else:
        pixels = np.asarray(_convert(image, "RGB", name))
    return _owned(upright(pixels, image))


def _convert(image: Image.Image, mode: str, name: str) -> Image.Image:
    if image.mode == "La":  # Pillow has no direct way
        image = image.convert("LA")
    elif image.mode == "LAB":
        image = image.convert("RGB")
    try:
        return image.convert(mode)
    except ValueError as error:
        raise ImageError(
            f"{name}: images of mode {image.mode} are not supported; convert it to RGB"
        ) from error


def _grey16_to_rgb(image: Image.Image, name: str) -> NDArray[Any]:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: values run from {values.min()} to {values.max()}, outside 16 bits "
            "(0 to 65535); convert it to 8 or 16 bit"
        )
    grey = values.astype(np.float32) / np.float32(257)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 0  # a colour key: these pixels are transparent, so black
    return grey[..., None].repeat(3, axis=2)


def _array_to_rgb(array: NDArray[Any]) -> NDArray[Any]:
    name = "the image array"
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"{name}: its shape is {shape}; it has to be H x W, or H x W x channels with 1, 3 or "
            "4 channels in the last place"
        )
    check_size((shape[1], shape[0]), name)
    kind = (array.dtype.kind, array.dtype.itemsize)
    if kind == ("u", 1):
        pixels = array
    elif kind == ("u", 2):
        pixels = array.astype(np.float32) / np.float32(257)
    elif kind == ("f", 4):
        pixels = array.astype(np.float32, copy=False)
        low, high = pixels.min(), pixels.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            what = "NaN" if np.isnan(pixels).any() else "infinite values"
            raise ImageError(f"{name}: it contains {what}; replace them")
        if low < 0 or high > 255:
            raise ImageError(f"{name}: values run from {low:g} to {high:g}; scale them to 0 to 255")
    else:
        raise ImageError(
            f"{name}: its type is {array.dtype}; convert it to uint8, uint16 or float32 on the "
            "scale 0 to 255"
        )
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    elif pixels.shape[2] == 4:
        pixels = _on_black(pixels)
    return _owned(pixels)


def _on_black(rgba: NDArray[Any]) -> NDArray[Any]:
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    if (alpha == 255).all():
        return rgb
    blended: NDArray[Any]
    if rgba.dtype == np.uint8:
        blended = ((rgb.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
    else:
        blended = rgb * (alpha / np.float32(255))
    return blended


def _owned(pixels: NDArray[Any]) -> NDArray[Any]:
    """Make sure of a contiguous and writeable array; Pillow's own are read-only."""
    if not pixels.flags.carray:
        pixels = np.array(pixels, order="C")
    return pixels
