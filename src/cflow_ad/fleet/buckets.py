"""Objects of S3, Google Cloud Storage or Azure."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, cast

from cflow_ad.errors import StoreError
from cflow_ad.fleet.objects import Objects

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_RETRIES = 10
_RETRY_SECONDS = 180


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

    def create(self, key: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with self._errors(f"writing {key}", key):
            try:
                # In one request: the parts of a larger one have no condition.
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                # Perhaps by this very request, whose first answer was lost.
                return self.read(key) == data
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
