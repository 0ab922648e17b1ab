"""Find images in folders, and those that a person names on a command line."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from cflow_ad.data.decoding.opening import reason
from cflow_ad.data.images import PathLike
from cflow_ad.data.naming import common_root
from cflow_ad.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pbm", ".pgm", ".ppm", ".pnm"}
)
"""The suffixes, in lower case, of image files."""


def list_images(folder: PathLike, *, recursive: bool = True) -> list[Path]:
    """List the images in a folder and its sub-folders, in natural order.

    So ``2.png`` comes before ``10.png``. The images of a folder come before those of its
    sub-folders. Hidden files and folders, such as macOS's ``._*`` files, are ignored. A folder that
    several links lead to is listed once.

    Args:
        folder: The folder.
        recursive: Whether its sub-folders count too.

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
        for _, more in _below(folder, subfolders):
            files += more
            images += _images(more)
    if not images:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        there = _describe(subfolders, files)
        raise DataError(
            f"{folder}: no images there (looked for {suffixes}); {there}",
            code="training.no_images",
            folder=str(folder),
        )
    return images


def walk(folder: PathLike) -> Iterator[tuple[Path, list[Path]]]:
    """Yield a folder, then each one below it, with the files that lie in it, in natural order.

    Hidden files and folders are ignored, and each folder comes once, whatever links there are.

    Raises:
        DataError: A folder cannot be read.
    """
    folder = Path(folder)
    subfolders, files = scan(folder)
    yield folder, files
    yield from _below(folder, subfolders)


def is_image(file: Path) -> bool:
    """Return whether a file has the suffix of an image."""
    return file.suffix.lower() in IMAGE_SUFFIXES


def find_images(names: Iterable[str]) -> list[Path]:
    """Find the images that a person named on a command line.

    Args:
        names: Files, folders (with their sub-folders), or patterns with ``*``, ``?`` or ``[``
            (``**`` for folders at any depth). A file is taken whatever its suffix. A part of a
            pattern that is the name of a file or folder is taken as that name: ``lot[3]/*.png``.

    Returns:
        At least one path, in the order named, and no file twice.

    Raises:
        DataError: A folder has no images, a pattern matches no image, or a name is empty.
    """
    found: list[Path] = []
    names = list(names)
    for name in names:
        if not name:  # of an unset shell variable; to Path it would be the current folder
            raise DataError("an empty name was given; name image files, folders or patterns")
        path = Path(name)
        if path.is_dir():
            found += list_images(path)
            if len(names) == 1:  # no path is there twice, and a million of them take long to check
                return found
        elif not path.exists() and glob.has_magic(name):
            fitting = _images(_match(path))
            if not fitting:
                raise DataError(f"{name}: no image matches this pattern")
            found += sorted(fitting, key=lambda path: _natural(str(path)))
        else:
            found.append(path)
    return _each_once(found)


def common_folder(names: Iterable[str]) -> Path | None:
    """Return the deepest folder that holds whatever the names of `find_images` name, absolute.

    It depends on the names alone, not on which images there are. None where they lie on several
    drives.
    """
    folders = []
    for name in names:
        path = Path(name)
        if not path.is_dir():
            path = _fixed_part(path) if glob.has_magic(name) and not path.exists() else path.parent
        folders.append(os.path.abspath(path))  # noqa: PTH100 (links keep their names)
    root = common_root(folders)
    return None if root is None else Path(root)


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


def _each_once(paths: list[Path]) -> list[Path]:
    """Leave out paths that name a file again; a link is a file of its own."""
    folders: dict[str, str] = {}
    seen: set[str] = set()
    once = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        place = os.path.join(folders[folder], name)  # noqa: PTH118 (much faster, for many files)
        if place not in seen:
            seen.add(place)
            once.append(path)
    return once


def _below(folder: Path, subfolders: list[Path]) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each folder below a folder, and the files in it; a link back up is not followed."""
    pending, seen = subfolders[::-1], {folder.resolve()}
    while pending:
        below = pending.pop()
        if (resolved := below.resolve()) in seen:
            continue
        seen.add(resolved)
        deeper, files = scan(below)
        pending += reversed(deeper)
        yield below, files


def _match(pattern: Path) -> list[Path]:
    """Find what a pattern matches; a part of it that exists is a name and no pattern."""
    found = [Path(pattern.anchor)]
    for part in pattern.parts[1:] if pattern.anchor else pattern.parts:
        found = [match for folder in found for match in _match_part(folder, part)]
    return found


def _match_part(folder: Path, part: str) -> list[Path]:
    if part == "**":
        subfolders = scan(folder)[0] if folder.is_dir() else []
        return [folder, *(below for below, _ in _below(folder, subfolders))]
    if (folder / part).exists():
        return [folder / part]
    if not glob.has_magic(part) or not folder.is_dir():
        return []
    subfolders, files = scan(folder)
    return [path for path in (*subfolders, *files) if fnmatch.fnmatch(path.name, part)]


def _fixed_part(pattern: Path) -> Path:
    """Return the folders that a pattern begins with."""
    folder = Path(pattern.anchor)
    for part in pattern.parts[1:-1] if pattern.anchor else pattern.parts[:-1]:
        if not (folder / part).is_dir():
            break
        folder /= part
    return folder


def _images(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if is_image(file)]


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Compare digits as numbers, text without regard to case, and the name itself last."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(p), "") if p.isascii() and p.isdigit() else (-1, p) for p in parts], name


def _describe(subfolders: list[Path], files: list[Path]) -> str:
    if not files:
        return "it has only sub-folders" if subfolders else "it is empty"
    counts = Counter(file.suffix.lower() for file in files).most_common(3)
    kinds = [f"{n} {kind or 'suffixless'} file{'s' * (n > 1)}" for kind, n in counts]
    rest = len(files) - sum(n for _, n in counts)
    return "it has only " + ", ".join(kinds) + (f" and {rest} more" if rest else "")
