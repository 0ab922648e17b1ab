"""Bytes by key, in a folder or in an object store, each written once."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from cflow_ad.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_RETRIES = 10
_RETRY_SECONDS = 180
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
    return Bucket(os.fspath(place)) if is_url(place) else Folder(Path(place))


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
    def create(self, key: str, data: bytes | Path) -> bool:
        """Write an object, whole or not at all, unless there is one of this key.

        Args:
            key: Its name, with `/` between the parts.
            data: Its bytes, or a file that holds them.

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

    def create(self, key: str, data: bytes | Path) -> bool:
        path = self._root / key
        new = path.with_name(f".{uuid.uuid4().hex}{_UNFINISHED}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with new.open("xb") as file:
                    if isinstance(data, bytes):
                        file.write(data)
                    else:
                        with data.open("rb") as source:
                            shutil.copyfileobj(source, file)
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


class Bucket(Objects):
    """Objects of S3, Google Cloud Storage or Azure, below a prefix.

    A request that the store refuses, or that gets no answer, is repeated for up to three minutes.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url.rstrip("/"))
        self._store = _open_bucket(self.name)

    def read(self, key: str) -> bytes:
        import obstore

        with self._errors(f"reading {key}", key):
            return bytes(obstore.get(self._store, key).bytes())

    def open(self, key: str) -> IO[bytes]:
        import obstore

        with self._errors(f"reading {key}", key):
            return cast("IO[bytes]", _Reader(obstore.open_reader(self._store, key), self, key))

    def create(self, key: str, data: bytes | Path) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        content = data if isinstance(data, bytes) else data.read_bytes()
        with self._errors(f"writing {key}", key):
            try:
                # In one request: the parts of a larger one have no condition.
                obstore.put(self._store, key, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                # Perhaps by this very request, whose first answer was lost.
                return self.read(key) == content
        return True

    def entries(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        import obstore

        with self._errors("listing"):
            for page in obstore.list(self._store, prefix.rstrip("/") or None):
                for found in page:
                    yield found["path"], found["size"]

    @contextlib.contextmanager
    def _errors(self, what: str, key: str = "") -> Iterator[None]:
        from obstore.exceptions import BaseError, NotFoundError

        try:
            yield
        except (NotFoundError, FileNotFoundError):
            raise self._missing(key) from None
        except (BaseError, OSError, ValueError) as error:
            raise self._failed(what, error) from error


class _Reader:
    """An object that is open for reading, whose errors name it."""

    def __init__(self, reader: Any, bucket: Bucket, key: str) -> None:
        self._reader = reader
        self._bucket = bucket
        self._key = key
        self.closed = False

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.closed = True

    def read(self, size: int = -1) -> bytes:
        with self._bucket._errors(f"reading {self._key}", self._key):
            return bytes(self._reader.read(None if size < 0 else size))

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._bucket._errors(f"reading {self._key}", self._key):
            return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def flush(self) -> None:
        pass


def _open_bucket(url: str) -> ObjectStore:
    from datetime import timedelta

    from obstore.exceptions import BaseError
    from obstore.store import from_url

    if url.split("://", 1)[0] not in ("s3", "gs", "az"):
        raise StoreError(f"{url}: give a folder, or a URL that begins with s3://, gs:// or az://")
    endpoints = (os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"))
    is_plain = any(endpoint.startswith("http://") for endpoint in endpoints)
    try:
        return from_url(
            url,
            client_options={"allow_http": True} if is_plain else None,
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
            },
        )
    except (BaseError, ValueError) as error:
        raise StoreError(f"{url}: not a place in an object store ({error})") from error
