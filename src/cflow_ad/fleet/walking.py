"""Walk through a folder of any size in a fixed order, with little memory."""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

MOST_NAMES = 50_000
"""Names of one folder that are sorted in memory; more are sorted in files."""


def walk(root: Path, *, most: int = MOST_NAMES) -> Iterator[tuple[str, int]]:
    """List the files below a folder, and their sizes, in the order of the bytes of their names.

    That is the order in which object stores list: a folder counts as its name and a `/`. Hidden
    files and folders are left out, and links that lead back up. At most `most` names of each folder
    on the way are in memory.

    Yields:
        A file's name relative to `root`, with `/` between the parts, and its size in bytes.

    Raises:
        OSError: A folder cannot be read.
    """
    yield from _walk(root, "", (os.path.realpath(root),), most)


def _walk(
    folder: Path, prefix: str, above: tuple[str, ...], most: int
) -> Iterator[tuple[str, int]]:
    for name in _sorted(_names(folder), most):
        path = folder / name.removesuffix("/")
        if not name.endswith("/"):
            try:
                size = path.stat().st_size
            except FileNotFoundError:  # deleted meanwhile, or a link to nothing
                continue
            yield prefix + name, size
        elif (real := os.path.realpath(path)) not in above:
            yield from _walk(path, prefix + name, (*above, real), most)


def _names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as found:
        for entry in found:
            if not entry.name.startswith("."):
                yield entry.name + "/" * entry.is_dir()


def _sorted(names: Iterator[str], most: int) -> Iterable[str]:
    """Sort names; those beyond the first `most` in temporary files, which are then merged."""
    first = sorted(islice(names, most), key=os.fsencode)
    if len(first) < most:
        return first
    return _merged(first, names, most)


def _merged(first: list[str], names: Iterator[str], most: int) -> Iterator[str]:
    files: list[IO[bytes]] = []
    try:
        part = first
        while part:
            file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
            files.append(file)
            file.writelines(os.fsencode(name) + b"\0" for name in part)
            part = sorted(islice(names, most), key=os.fsencode)
        first.clear()
        for name in heapq.merge(*map(_read_names, files)):
            yield os.fsdecode(name)
    finally:
        for file in files:
            file.close()


def _read_names(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    rest = b""
    while block := file.read(2**16):
        *names, rest = (rest + block).split(b"\0")
        yield from names
