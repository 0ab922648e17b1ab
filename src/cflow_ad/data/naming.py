"""Names of results, after the images that they are of."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import TypeVar

AnyPath = TypeVar("AnyPath", bound=PurePath)


def name_results(paths: Sequence[PurePath], root: PurePath | None) -> list[str]:
    """Name each image's results: its path inside `root`, with slashes and without suffix.

    Images that differ only in their suffix keep it. Names that differ only in case, or in how
    accents are spelled, are one name to Windows and macOS: each after the first gets a number.

    Args:
        paths: Absolute.
        root: Absolute; images elsewhere, or all where it is unset, keep their whole path.

    Example:
        >>> from pathlib import PurePosixPath as Path
        >>> name_results([Path("/a/x/1.png"), Path("/a/y/1.png"), Path("/a/y/1.jpg")], Path("/a"))
        ['x/1', 'y/1.png', 'y/1.jpg']
        >>> name_results([Path("/a/b.png"), Path("/a/B.png")], Path("/a"))
        ['b.png', 'B.png~2']
    """
    inside = [_inside(path, root) for path in paths]
    stems = [path.with_suffix("").as_posix() for path in inside]
    uses = Counter(map(_key, stems)) + Counter(_key(path.as_posix()) for path in inside)
    taken: set[str] = set()
    names = []
    for path, stem in zip(inside, stems, strict=True):
        first = name = stem if uses[_key(stem)] == 1 else path.as_posix()
        number = 2
        while _key(name) in taken:
            name = f"{first}~{number}"
            number += 1
        taken.add(_key(name))
        names.append(name)
    return names


def common_root(folders: Sequence[str]) -> str | None:
    """Return the deepest folder that holds all of some absolute ones; None on several drives."""
    try:
        return os.path.commonpath(folders)
    except ValueError:
        return None


def _inside(path: AnyPath, root: PurePath | None) -> AnyPath:
    if root is not None and path.is_relative_to(root):
        return path.relative_to(root)
    drive = "".join(filter(str.isalnum, path.drive))  # C: to C
    parts = path.parts[1:] if path.anchor else path.parts
    return type(path)(drive, *parts)


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
