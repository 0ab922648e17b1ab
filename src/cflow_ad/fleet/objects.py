"""Bytes by key, in a folder or in an object store, each written once."""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cflow_ad.errors import StoreError

_UNFINISHED = ".unfinished"


def is_url(place: str | os.PathLike[str]) -> bool:
    """Return whether a place is a URL of an object store, and not a folder."""
    return "://" in os.fspath(place)


def open_objects(place: str | os.PathLike[str]) -> Objects:
    """Open a folder, or a bucket of an object store.

    Args:
        place: A folder, which need not exist; or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or
            `az://ACCOUNT/CONTAINER/PREFIX`. Credentials and the endpoint come from the environment
            variables that each provider's own tools read, such as `AWS_ACCESS_KEY_ID` and
            `AWS_ENDPOINT_URL`.

    Raises:
        StoreError: The URL is not one of these.
        DependencyError: obstore, which object stores need, is not installed.
    """
    if not is_url(place):
        return Folder(Path(place))
    from cflow_ad.fleet.buckets import Bucket

    return Bucket(os.fspath(place))


class Objects(ABC):
    """Bytes by key. No key is ever written twice, so that what was read once stays true.

    Args:
        name: Of the place, for errors.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Read an object.

        Raises:
            StoreError: There is no such object, or the store cannot be read.
        """

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write an object, whole or not at all, unless there is one of this key.

        Args:
            key: Its name, with `/` between the parts.
            data: Its bytes.

        Returns:
            Whether the object is this one; False where another was there before.

        Raises:
            StoreError: The store cannot be written.
        """

    @abstractmethod
    def open(self, key: str) -> IO[bytes]:
        """Open an object for reading from its beginning; raises as `read` does."""

    @abstractmethod
    def entries(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """List keys below a prefix, which ends with `/`, and sizes in bytes, in rising order.

        The listing is read as it is consumed, so that it may be of any length.

        Raises:
            StoreError: The store cannot be read.
        """

    def keys(self, prefix: str = "") -> Iterator[str]:
        """List keys below a prefix, as `entries` does."""
        return (key for key, _ in self.entries(prefix))

    def exists(self, key: str) -> bool:
        """Return whether there is an object of this key."""
        try:
            self.open(key).close()
        except MissingObjectError:
            return False
        return True

    def _missing(self, key: str) -> MissingObjectError:
        return MissingObjectError(f"{self.name}: there is no {key}")

    def _failed(self, what: str, error: Exception) -> StoreError:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0][:300]
        return StoreError(f"{self.name}: {what} failed ({reason}); check the path or URL")


class MissingObjectError(StoreError):
    """There is no object of this key."""


class Folder(Objects):
    """Objects as files of a folder, which several machines may share.

    A file gets its name by a hard link, which fails where the name is taken.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self._root = root

    def read(self, key: str) -> bytes:
        with self.open(key) as file:
            return file.read()

    def open(self, key: str) -> IO[bytes]:
        try:
            return (self._root / key).open("rb")
        except FileNotFoundError:
            raise self._missing(key) from None
        except OSError as error:
            raise self._failed(f"reading {key}", error) from error

    def create(self, key: str, data: bytes) -> bool:
        path = self._root / key
        new = path.with_name(f".{uuid.uuid4().hex}{_UNFINISHED}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with new.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                return _link(new, path)
            finally:
                new.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(f"writing {key}", error) from error

    def entries(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        from cflow_ad.fleet.walking import walk

        try:
            for key, size in walk(self._root / prefix):
                yield prefix + key, size
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed("listing", error) from error


def _link(new: Path, path: Path) -> bool:
    try:
        os.link(new, path)
    except FileExistsError:
        with new.open("rb") as ours, path.open("rb") as theirs:
            return _equal(ours, theirs)
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        new.replace(path)
    return True


def _equal(first: IO[bytes], second: IO[bytes]) -> bool:
    while one := first.read(2**20):
        if one != second.read(2**20):
            return False
    return not second.read(1)
