"""Find images in folders, and those that a person names on a command line."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cflow_ad.data._decode import reason
from cflow_ad.data.images import PathLike
from cflow_ad.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""The suffixes, in lower case, of image files."""


def list_images(folder: PathLike, recursive: bool = False) -> list[Path]:
    """List the images in a folder, or in its sub-folders too, in natural order.

    So ``2.png`` comes before ``10.png``. Hidden files and folders, such as macOS's ``._*`` files,
    are ignored.

    Returns:
        At least one path, each beginning with `folder`.

    Raises:
        DataError: The folder is missing, not a folder, unreadable, or has no images; in that
            case the message says what it contains instead.
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
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        there = _describe(subfolders, files)
        raise DataError(f"{folder}: no images there (looked for {suffixes}); {there}")
    return images


def find_images(names: Iterable[str], recursive: bool = False) -> list[Path]:
    """Find the images that a person named on a command line.

    Args:
        names: Files, folders, or patterns with ``*``, ``?`` or ``[`` (``**`` for sub-folders). A
            file is taken whatever its suffix.
        recursive: List sub-folders of folders too.

    Returns:
        At least one path, in the order named, and no file twice.

    Raises:
        DataError: A folder has no images, a pattern matches no image, or a name is empty.
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
                raise DataError(f"{name}: no image matches this pattern")
            found += sorted(fitting, key=lambda path: _natural(str(path)))
        else:
            found.append(path)
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(path.parent.resolve() / path.name, path)
    return list(once.values())


def scan(folder: PathLike) -> tuple[list[Path], list[Path]]:
    """List the sub-folders, then the other files, of a folder that are not hidden.

    Each are in natural order.

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
    """Return whether an image lies directly in a folder; false for one that cannot be read."""
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


def _describe(subfolders: list[Path], files: list[Path]) -> str:
    hint = next(filter(has_images, subfolders), None)
    if hint is not None and not _images(files):
        return f"there are some in its sub-folders, such as {hint.name}; name one of those"
    if not files:
        return "it has only sub-folders" if subfolders else "it is empty"
    counts = Counter(file.suffix.lower() for file in files).most_common(3)
    kinds = [f"{n} {kind or 'suffixless'} file{'s' * (n > 1)}" for kind, n in counts]
    rest = len(files) - sum(n for _, n in counts)
    return "it has only " + ", ".join(kinds) + (f" and {rest} more" if rest else "")
