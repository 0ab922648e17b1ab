"""An archive of images in shards: runs of single images, tar files, and Parquet files."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from cflow_ad.data.listing import IMAGE_SUFFIXES
from cflow_ad.errors import DataError
from cflow_ad.fleet.objects import Folder, Objects, is_url, open_objects

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIX = ".parquet"

Kind = Literal["images", "tar", "parquet"]

_NAMED = 60  # letters of a shard's first file in the shard's name


@dataclass(frozen=True)
class Shard:
    """Images that are scored by one worker, and whose results are one file."""

    name: str
    """Of the file of results, without suffix. It changes where names or sizes of the files do."""
    kind: Kind
    keys: tuple[str, ...]
    """The images, or the one tar or Parquet file."""


class Archive:
    """Images of a folder, an object store, or one tar or Parquet file.

    Args:
        place: a folder, a URL as for `open_objects`, or a file.

    Raises:
        DataError: there is no such folder, or the file is neither tar nor Parquet.
    """

    def __init__(self, place: str) -> None:
        self._only: str | None = None
        self.name = place
        path = Path(place)
        if is_url(place):
            self.objects: Objects = open_objects(place)
        elif path.is_file():
            if _kind(path.name) not in ("tar", "parquet"):
                raise DataError(
                    f"{place}: this is neither a tar nor a Parquet file; name one, or a folder"
                )
            self.objects = Folder(path.parent)
            self._only = path.name
        elif path.is_dir():
            self.objects = Folder(path)
        else:
            raise DataError(f"{place}: there is no such folder or file; check the path")

    def shards(self, images: int) -> Iterator[Shard]:
        """List the shards, in the order of the names of their files.

        The listing is read as it is consumed. A run of single images ends where the hash of a name
        says so: one image more changes one run, and leaves the others as they are.

        Args:
            images: the number of single images in a shard, about.

        Raises:
            StoreError: the archive cannot be listed.
        """
        run: list[tuple[str, int]] = []
        for key, size in self._entries():
            kind = _kind(key)
            if kind in ("tar", "parquet"):
                yield _shard(kind, [(key, size)])
            elif kind == "images":
                run.append((key, size))
                if _is_last(run, images):
                    yield _shard("images", run)
                    run = []
        if run:
            yield _shard("images", run)

    def _entries(self) -> Iterator[tuple[str, int]]:
        if self._only is None:
            return self.objects.entries()
        with self.objects.open(self._only) as file:
            return iter([(self._only, file.seek(0, 2))])


def is_image(key: str) -> bool:
    """Return whether a name is that of an image, which is not hidden."""
    name = PurePosixPath(key)
    return name.suffix.lower() in IMAGE_SUFFIXES and not name.name.startswith(".")


def printable(key: str) -> str:
    """Return a name as valid Unicode: file names may hold any bytes."""
    return key.encode("utf-8", "backslashreplace").decode()


def _kind(key: str) -> Kind | None:
    lower = key.lower()
    if lower.endswith(TAR_SUFFIXES):
        return "tar"
    if lower.endswith(PARQUET_SUFFIX):
        return "parquet"
    return "images" if is_image(key) else None


def _is_last(run: list[tuple[str, int]], images: int) -> bool:
    """Whether a run of images ends: at one name in `images` half on, and at twice that at most."""
    n = len(run)
    name = run[-1][0].encode("utf-8", "surrogateescape")
    return n >= 2 * images or (n >= images / 2 and zlib.crc32(name) % max(1, images // 2) == 0)


def _shard(kind: Kind, files: list[tuple[str, int]]) -> Shard:
    digest = hashlib.sha256()
    for key, size in files:
        digest.update(key.encode("utf-8", "surrogateescape") + b"\0%d\n" % size)
    first = re.sub(r"[^A-Za-z0-9_.-]+", "_", printable(files[0][0]))
    name = f"{first[-_NAMED:].lstrip('.')}-{digest.hexdigest()[:16]}"
    return Shard(name, kind, tuple(key for key, _ in files))
