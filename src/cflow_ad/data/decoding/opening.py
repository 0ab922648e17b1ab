"""Open image files, and the errors of those that cannot be decoded."""

from __future__ import annotations

import importlib
import stat
from pathlib import Path
from typing import IO, Any

from cflow_ad.errors import DependencyError, ImageError

MAX_PIXELS = 500_000_000
"""A larger image is refused before it is decoded: a small file can claim any size."""


def open_file(path: Path) -> IO[bytes]:
    """Open a file to read; raises ImageError where it is missing, a folder or forbidden."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _unreadable(path, "this is a folder; name an image file in it")
        if not stat.S_ISREG(status.st_mode):
            raise _unreadable(path, "this is a device, not a file; name an image file")
        return path.open("rb")
    except FileNotFoundError as error:
        raise _unreadable(path, "there is no such file; check the path") from error
    except PermissionError as error:
        raise _unreadable(path, "no permission to read it; change its permissions") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, f"the file cannot be opened ({reason(error)})") from error


def _unreadable(path: Path, why: str) -> ImageError:
    return ImageError(f"{path}: {why}", code="image.unreadable", name=str(path))


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise an ImageError for an image without pixels, or with more than `MAX_PIXELS`.

    The size is in Pillow's order: width and height.
    """
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: the image claims {height} x {width} pixels (height x width), more than the "
            f"{MAX_PIXELS // 1_000_000} million allowed; cut it into tiles, or shrink it",
            code="image.pixels",
            name=name,
            height=height,
            width=width,
            limit=MAX_PIXELS,
        )
    if width * height == 0:
        raise ImageError(
            f"{name}: the image has no pixels; give one of at least 1 x 1",
            code="image.empty",
            name=name,
        )


def check_page(page: int | None, n_pages: int, name: str) -> int:
    """Return the index, from 0, of the page to read; raises ImageError where it is not known.

    Args:
        page: Its number, from 1; None where none was chosen.
        n_pages: Pages or frames in the file.
        name: Of the file.
    """
    if page is None and n_pages > 1:
        raise ImageError(
            f"{name}: it holds {n_pages} images (pages or frames); choose one with --page, from 1 "
            f"to {n_pages}, or save them as files of one image each",
            code="image.pages",
            name=name,
            n=n_pages,
        )
    if (page or 1) > n_pages:
        raise ImageError(
            f"{name}: page {page} was asked for, but it holds {n_pages}; choose another --page",
            code="image.no_page",
            name=name,
            page=page or 1,
            n=n_pages,
        )
    return (page or 1) - 1


def damaged(name: object, why: Exception | str) -> ImageError:
    """Build the error for a file that is cut short or whose content is wrong."""
    return ImageError(
        f"{name}: the image is damaged or truncated ({reason(why)}); copy it again from its source",
        code="image.damaged",
        name=str(name),
    )


def unsupported(name: object, what: str) -> ImageError:
    """Build the error for a whole file of a kind that is not read."""
    return ImageError(
        f"{name}: {what} is not supported; convert it to PNG, or to TIFF of 8 or 16 bits",
        code="image.unsupported",
        name=str(name),
    )


def reason(why: Exception | str) -> str:
    """Say in a few words why something failed."""
    text = why if isinstance(why, str) else getattr(why, "strerror", None) or str(why)
    return " ".join(text.split()) or type(why).__name__


def optional_library(module: str, extra: str, name: object, what: str) -> Any:
    """Import a library that an extra of this package installs.

    Args:
        module: Its name.
        extra: The extra's name.
        name: Of the image that needs it.
        what: That the image is.

    Raises:
        DependencyError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{name}: {what} needs {module}, which is not installed: "
            f"pip install 'cflow-ad[{extra}]'",
            code="library.missing",
            name=str(name),
            library=module,
            extra=extra,
        ) from error
