"""Read the image files of a shard one after another, ahead of their use."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

from cflow_ad.data.parallel import work_ahead
from cflow_ad.errors import DataError
from cflow_ad.fleet.archive import Archive, Shard, is_image, printable
from cflow_ad.fleet.objects import MissingObjectError

_READERS = 8  # files that are read at the same time
_AHEAD = 16
_ROWS = 16  # of a Parquet file that are in memory

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "bytes", "content", "data")
"""Names that a Parquet file's column of images may have, the first that is there."""

NAME_COLUMNS = ("path", "file_name", "filename", "name", "key", "__key__", "id")
"""Names that its column of the images' names may have."""


class Item(NamedTuple):
    """An image file of a shard."""

    name: str
    """Unique in the archive."""
    data: bytes
    """Empty where it could not be read."""
    error: str = ""
    """Why it could not be read."""


def read_shard(
    archive: Archive, shard: Shard, *, image_column: str | None = None
) -> Iterator[Item]:
    """Read the image files of a shard, in its order.

    Args:
        archive: has the shard.
        shard: one of its shards.
        image_column: the column of images in a Parquet file; unset, one of `IMAGE_COLUMNS`.

    Raises:
        DataError: a tar or Parquet file is damaged, or has no column of images.
        StoreError: it cannot be read.
    """
    if shard.kind == "images":
        return _read_images(archive, shard.keys)
    if shard.kind == "tar":
        return _read_tar(archive, shard.keys[0])
    return _read_parquet(archive, shard.keys[0], image_column)


def _read_images(archive: Archive, keys: Iterable[str]) -> Iterator[Item]:
    def read(key: str) -> Item:
        try:
            return Item(printable(key), archive.objects.read(key))
        except MissingObjectError as error:  # deleted since it was listed
            return Item(printable(key), b"", str(error))

    for _, item in work_ahead(keys, read, workers=_READERS, ahead=_AHEAD):
        yield item


def _read_tar(archive: Archive, key: str) -> Iterator[Item]:
    ended = False

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
            nonlocal ended
            ended |= len(buf) == tarfile.BLOCKSIZE and not any(buf)
            return super().frombuf(buf, encoding, errors)

    try:
        with (
            archive.objects.open(key) as file,
            tarfile.open(  # type: ignore[call-overload]
                fileobj=_Blocks(file), mode="r|*", tarinfo=Header
            ) as tar,
        ):
            for member in tar:
                tar.members = []  # it would keep them all
                if member.isfile() and is_image(member.name):
                    content = tar.extractfile(member)
                    assert content is not None, "it is a file"
                    yield Item(printable(f"{key}/{member.name}"), content.read())
        if not ended:  # tarfile takes the end of the file for the end of the archive
            raise EOFError("it ends too early")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{archive.objects.name}: {key} is damaged ({error}); copy it again from its source"
        ) from error


class _Blocks:
    """A file that is only read on, which is all that a stream of a tar file needs."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read = file.read


def _read_parquet(archive: Archive, key: str, image_column: str | None) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = f"{archive.objects.name}: {key}"
    with archive.objects.open(key) as file:
        try:
            table = pq.ParquetFile(pa.PythonFile(file, "r"))
            columns = table.schema_arrow.names
            image = _column(columns, (image_column,) if image_column else IMAGE_COLUMNS)
            if image is None:
                wanted = f"no column {image_column!r}" if image_column else "no column of images"
                raise DataError(f"{where} has {wanted}; it has {', '.join(columns)}")
            name = _column(columns, NAME_COLUMNS)
            wanted_columns = [image] if name is None else [image, name]
            number = 0
            for batch in table.iter_batches(_ROWS, columns=wanted_columns):
                images = batch.column(image).to_pylist()
                names = images if name is None else batch.column(name).to_pylist()
                for value, own in zip(images, names, strict=True):
                    yield _item(key, number, value, own)
                    number += 1
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{where} is damaged ({error}); copy it again from its source"
            ) from error


def _column(columns: list[str], wanted: Iterable[str]) -> str | None:
    return next((name for name in wanted if name in columns), None)


def _item(key: str, number: int, value: Any, own: Any) -> Item:
    """An image in a cell: its bytes, or bytes and path, as Hugging Face's data sets have them."""
    inside = own.get("path") if isinstance(own, dict) else own
    label = f"{number:09}" if not isinstance(inside, str | int) else f"{number:09}/{inside}"
    name = printable(f"{key}/{PurePosixPath(label)}")
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        return Item(name, b"", f"{name}: the cell holds no image")
    return Item(name, data)
